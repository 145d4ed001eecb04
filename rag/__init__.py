"""The site's documents: read and cut (`extract`, `chunks`), kept and searched (`store`), ranked (`rank`). No route uses
them yet."""
