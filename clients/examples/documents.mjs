// node documents.mjs QUESTION FILE...: uploads files, waits until they are read, and shows where they answer.
import { createReadStream } from "node:fs";
import OpenAI from "openai";

const [question, ...paths] = process.argv.slice(2);
const client = new OpenAI({ baseURL: process.env.OPENAI_BASE_URL ?? "http://localhost:8484/v1", apiKey: process.env.OPENAI_API_KEY ?? "none" });

const store = await client.vectorStores.create({ name: "example" });
const batch = await client.vectorStores.fileBatches.uploadAndPoll(store.id, { files: paths.map((path) => createReadStream(path)) });
console.error(`${batch.file_counts.completed} of ${batch.file_counts.total} files`);
for await (const file of client.vectorStores.files.list(store.id, { filter: "failed" })) {
  console.error(`${file.outstation.filename}: ${file.last_error.message}`);
}
for await (const found of client.vectorStores.search(store.id, { query: question, max_num_results: 3 })) {
  const page = found.outstation.page === null ? "" : `, page ${found.outstation.page}`;
  console.log(`${found.score.toFixed(2)} ${found.filename}${page}: ${found.content[0].text.replace(/\s+/g, " ").slice(0, 200)}`);
}
await client.vectorStores.delete(store.id);
