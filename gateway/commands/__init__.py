"""The commands of `outstation`, one file each."""
