// Ask the box a question, plain and streamed: node openai_chat.mjs [QUESTION]
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8484/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "none", // needed only where the gateway has keys
});
const messages = [{ role: "user", content: process.argv[2] ?? "What does a check valve do?" }];

const { data, response } = await client.chat.completions
  .create({ model: "auto", messages, max_tokens: 48 })
  .withResponse();
console.log(data.choices[0].message.content);
console.error(`answered by ${response.headers.get("x-outstation-route")}, ${data.usage.total_tokens} tokens`);

const stream = await client.chat.completions.create({ model: "auto", messages, max_tokens: 48, stream: true });
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
console.log();
