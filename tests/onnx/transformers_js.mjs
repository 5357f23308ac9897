// What transformers.js makes of a folder. Arguments: its package, the folder, a job as JSON.
import path from "node:path";
import { pathToFileURL } from "node:url";

const [home, folder, text] = process.argv.slice(2);
const job = JSON.parse(text);
const library = await import(pathToFileURL(path.join(home, "dist", "transformers.node.mjs")).href);
library.env.allowRemoteModels = false;
library.env.localModelPath = path.dirname(folder) + path.sep;
const name = path.basename(folder);
const options = {
  device: "cpu",
  session_options: { logSeverityLevel: 3, intraOpNumThreads: 1 },
};

const plain = (tensor) => ({ dims: tensor.dims, data: Array.from(tensor.data, Number) });
const outputs = (named) =>
  Object.fromEntries(Object.entries(named).map(([key, tensor]) => [key, plain(tensor)]));

const tokenizer = await library.AutoTokenizer.from_pretrained(name);
const processor = await library.AutoProcessor.from_pretrained(name);
const texts = tokenizer(job.texts, { padding: "max_length", truncation: true });
const images = await Promise.all(job.images.map((file) => library.RawImage.read(file)));
const { pixel_values } = await processor(images);
const result = { input_ids: plain(texts.input_ids), pixel_values: plain(pixel_values) };

const kinds = {
  text: [library.SiglipTextModel, texts],
  vision: [library.SiglipVisionModel, { pixel_values }],
  both: [library.SiglipModel, { ...texts, pixel_values }],
};
for (const [key, [kind, inputs]] of Object.entries(kinds)) {
  const model = await kind.from_pretrained(name, options);
  result[key] = outputs(await model(inputs));
}

const classify = await library.pipeline("zero-shot-image-classification", name, options);
result.ranking = await classify(job.images[0], job.texts, { hypothesis_template: "{}" });
console.log(JSON.stringify(result));
