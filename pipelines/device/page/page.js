"use strict";
/* The page: takes a picture, asks the model for its answer, and shows it. Names of classes are only ever set as text. */
(() => {
  const { prepare, isDeep, Refused } = globalThis.cgankdPrepare;
  const { read, cells, general, fixed } = globalThis.cgankdAnswer;
  const MOST_BARS = 5;
  const model = JSON.parse(document.getElementById("model").textContent);
  const at = (id) => document.getElementById(id);
  let session = null;
  let last = null;
  let asked = 0;
  let running = Promise.resolve();

  /** An element with a class and text or children. */
  function made(tag, name, ...inside) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.append(...inside);
    return element;
  }

  /** A bar of parts, each a class with its begin and its length in per cent. */
  function bar(name, ...parts) {
    const rail = made("div", name);
    for (const [kind, begin, long] of parts) {
      const part = made("i", kind);
      part.style.left = `${begin}%`;
      part.style.width = `${Math.max(0, long)}%`;
      rail.append(part);
    }
    return rail;
  }

  function facts(list, rows) {
    list.replaceChildren(...rows.flatMap(([name, value]) => [made("dt", "", name), made("dd", "", value)]));
  }

  function say(text, bad = false) {
    at("state").textContent = text;
    at("state").className = bad ? "state bad" : "state";
  }

  /** The bytes of the model, checked against what the page was made for, and how they were checked. Throws. */
  async function fetchModel() {
    try {
      return await checkedModel("no-cache");
    } catch {
      // File servers tell versions apart by whole seconds: a file replaced within one comes from the browser's cache.
      return checkedModel("reload");
    }
  }

  async function checkedModel(cache) {
    const reply = await fetch(model.file, { cache });
    if (!reply.ok) throw new Error(`${model.file} does not come (${reply.status}); copy the whole folder.`);
    const bytes = await reply.arrayBuffer();
    const other = `${model.file} is not the file that this page was made for`;
    if (bytes.byteLength !== model.bytes) {
      throw new Error(`${other}: it has ${bytes.byteLength} bytes, not ${model.bytes}. Export the page again.`);
    }
    if (!globalThis.isSecureContext || !globalThis.crypto?.subtle) {
      return [bytes, "only its length was compared, as browsers give SHA-256 over https and on localhost alone"];
    }
    const found = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const digest = Array.from(found, (value) => value.toString(16).padStart(2, "0")).join("");
    if (digest !== model.sha256) throw new Error(`${other}: its SHA-256 is ${digest}. Export the page again.`);
    return [bytes, "which the file was found to have"];
  }

  async function start() {
    say("Loading the model ...");
    const { info, margin } = model;
    at("fit").value = info.fit;
    at("enlarge").checked = info.enlarge;
    at("takes").textContent =
      `The model takes ${info.image_size}x${info.image_size} px in ${info.channels === 1 ? "grey" : "colour"}. Larger pictures are` +
      " averaged down to that, as cgankd predict does it.";
    if (location.protocol === "file:") {
      throw new Error("Browsers load no model from a file: in this folder run python -m http.server --bind 127.0.0.1 and open what that says.");
    }
    if (!globalThis.ort) throw new Error("onnxruntime-web/ort.wasm.min.js does not come; copy the whole folder.");
    ort.env.wasm.numThreads = 1; // more would need two headers, which a plain file server does not send
    ort.env.wasm.wasmPaths = {
      mjs: new URL("onnxruntime-web/ort-wasm-simd-threaded.js", location.href).href,
      wasm: new URL("onnxruntime-web/ort-wasm-simd-threaded.wasm", location.href).href,
    };
    const [bytes, checked] = await fetchModel();
    session = await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] });
    facts(at("facts"), [
      ...model.facts,
      ["Region", margin === null ? model.no_margin : `at ${general(100 * margin.level)} %, from ${margin.num} validation images`],
      ["Model", `${model.file}, ${model.bytes.toLocaleString("en")} bytes`],
      ["SHA-256", made("span", "", made("code", "", model.sha256), ` (${checked})`)],
      ["Computed by", `onnxruntime-web ${model.runtime}, on this device`],
    ]);
    for (const input of [at("choose"), at("take")]) input.disabled = false;
    say("");
  }

  /** Parts of a picture as RGBA levels, by way of a canvas no larger than the part: a phone's canvas has a limit. */
  function pictureOf(bitmap) {
    const canvas = document.createElement("canvas");
    return {
      width: bitmap.width,
      height: bitmap.height,
      read(left, top, width, height) {
        canvas.width = width;
        canvas.height = height;
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.imageSmoothingEnabled = false;
        context.drawImage(bitmap, left, top, width, height, 0, 0, width, height);
        return context.getImageData(0, 0, width, height).data;
      },
    };
  }

  async function opened(file) {
    if (isDeep(new Uint8Array(await file.slice(0, 32).arrayBuffer()))) {
      throw new Refused("The picture has more than 8 bits a channel, which a browser does not give; cgankd predict reads it.");
    }
    try {
      return await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
    } catch {
      throw new Refused("This browser cannot read the file as a picture; save it as PNG or JPEG.");
    }
  }

  /** The picture as it is, no larger than it is shown. */
  function showPicture(bitmap) {
    const canvas = at("shown");
    const share = Math.min(1, 640 / Math.max(bitmap.width, bitmap.height));
    const grown = Math.max(1, Math.floor(200 / Math.max(bitmap.width, bitmap.height)));
    canvas.width = Math.max(1, Math.round(bitmap.width * share * grown));
    canvas.height = Math.max(1, Math.round(bitmap.height * share * grown));
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = grown === 1;
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    canvas.hidden = false;
    at("hint").textContent = "Drop or paste another, or";
  }

  /** What the model sees, with the name and size of the file. */
  function showName(file, bitmap, levels) {
    const { image_size: size, channels } = model.info;
    const canvas = made("canvas", "");
    canvas.width = canvas.height = size;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "What the model sees");
    const image = new ImageData(size, size);
    for (let i = 0; i < size * size; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = levels[(channels === 1 ? 0 : c) * size * size + i];
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    const words = made("span", "", made("b", "", file.name), `${bitmap.width}x${bitmap.height} px; the model sees it as on the left`);
    at("name").replaceChildren(canvas, words);
    at("name").hidden = false;
  }

  function bars(reading, values) {
    const list = made("ul", "bars");
    list.setAttribute("aria-label", "Most probable classes");
    for (const i of reading.order.slice(0, MOST_BARS)) {
      const out = model.margin !== null && !(1 - values[i] <= model.margin.width);
      const share = bar("rail", [out ? "fill out" : "fill", 0, 100 * values[i]]);
      list.append(made("li", "", made("span", "", model.info.class_names[i]), made("span", "", fixed(values[i])), share));
    }
    return list;
  }

  /** The label and its interval on the range of all labels; one that goes round is two pieces. */
  function range(reading) {
    const { label_min: low, label_max: high } = model.info;
    const x = (value) => (100 * (value - low)) / (high - low);
    const [first, end] = reading.region;
    let parts = [];
    if (first !== undefined) parts = first > end ? [[low, end], [first, high]] : [[first, end]];
    const shown = parts.map(([a, b]) => ["part", x(a), x(b) - x(a)]);
    const line = bar("rail tall", ...shown, ["tick", x(reading.label), 0]);
    line.setAttribute("role", "img");
    line.setAttribute("aria-label", "Where the answer lies in the range of labels");
    return made("div", "range", line, made("div", "ends", made("span", "", general(low)), made("span", "", general(high))));
  }

  /** What a region promises, in a sentence. */
  function meaning(info, margin) {
    const level = `${general(100 * margin.level)} %`;
    if (info.kind === "class") return `Of pictures like those of validation ${level} have their class in the set; paler bars are outside it.`;
    return `Of pictures like those of validation ${level} have their label in the interval.`;
  }

  function showAnswer(values) {
    const reading = read(values, model);
    const text = cells(reading);
    const { margin, info } = model;
    const unit = info.kind === "scalar" && info.label_unit ? [" ", made("span", "", info.label_unit)] : [];
    const label = made("p", "label", text.label, ...unit);
    label.id = "label";
    const rows = [];
    if (text.confidence !== "") rows.push(["Confidence", text.confidence]);
    if (margin !== null) {
      const what = info.kind === "class" ? "Label set" : "Interval";
      const words = made("span", "", text.region);
      words.id = "region";
      if (info.kind === "scalar" && info.label_unit) words.append(` ${info.label_unit}`);
      rows.push([`${what} at ${general(100 * margin.level)} %`, words]);
    }
    const list = made("dl", "");
    facts(list, rows);
    const note = margin === null ? [] : [made("p", "said note", meaning(info, margin))];
    at("result").replaceChildren(label, list, info.kind === "class" ? bars(reading, values) : range(reading), ...note);
    at("answer").scrollIntoView({ block: "nearest" });
    document.body.dataset.answer = JSON.stringify([text.label, text.confidence, margin === null ? "" : text.region]);
  }

  async function answer(file, turn) {
    delete document.body.dataset.answer;
    try {
      const bitmap = await opened(file);
      if (turn !== asked) return;
      showPicture(bitmap);
      at("name").hidden = true;
      const { info } = model;
      const rules = { ...model.rules, size: info.image_size, channels: info.channels, fit: at("fit").value, enlarge: at("enlarge").checked };
      const levels = prepare(pictureOf(bitmap), rules);
      showName(file, bitmap, levels);
      const shape = [1, info.channels, info.image_size, info.image_size];
      const result = await session.run({ [model.input]: new ort.Tensor("float32", Float32Array.from(levels), shape) });
      if (turn !== asked) return;
      showAnswer(result[model.output].data);
    } catch (problem) {
      if (turn !== asked) return;
      const words = problem instanceof Refused ? problem.message : `The model does not answer (${problem.message}).`;
      at("result").replaceChildren(made("p", "bad", words));
      if (problem instanceof Refused && /made to fit/.test(words)) at("rules").open = true;
      at("answer").scrollIntoView({ block: "nearest" });
      document.body.dataset.answer = JSON.stringify({ refused: words });
    }
  }

  /** Ask for one picture after the other; an answer that is no longer asked for is not shown. */
  function ask(file) {
    if (!file || session === null) return;
    last = file;
    const turn = ++asked;
    running = running.then(() => answer(file, turn));
  }

  for (const input of [at("choose"), at("take")]) {
    input.addEventListener("change", () => {
      ask(input.files[0]);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  for (const control of [at("fit"), at("enlarge")]) control.addEventListener("change", () => ask(last));
  const over = (on) => (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", on);
  };
  for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, over(true));
  document.addEventListener("dragleave", over(false));
  document.addEventListener("drop", (event) => {
    over(false)(event);
    ask(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => ask(event.clipboardData.files[0]));
  start().then(
    () => (document.body.dataset.ready = "yes"),
    (problem) => {
      say(problem.message, true);
      document.body.dataset.ready = "no";
    },
  );
})();
