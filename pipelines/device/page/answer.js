"use strict";
/* An answer in words, as `cgankd predict` says it. */
(() => {
  /** A number cut to `num` digits as `write` writes them; of two equally near ones that which ends evenly, as in Python. */
  function evenly(value, write, num) {
    const [digits, exponent = ""] = write(value, 60).split("e");
    const end = digits.indexOf(".") + 1 + num;
    const tied = /^50*$/.test(digits.slice(end)) && "02468".includes(digits[end - 1]);
    return tied ? digits.slice(0, end) + (exponent && `e${exponent}`) : write(value, num);
  }

  const fixed = (value) => evenly(value, (x, num) => x.toFixed(num), 4);

  /** A number in six digits, written as predict writes it ("%.6g"). */
  function general(value) {
    if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
    if (value === 0) return Object.is(value, -0) ? "-0" : "0";
    const [digits, exponent] = evenly(value, (x, num) => x.toExponential(num), 5).split("e");
    const power = Number(exponent);
    const plain = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
    if (power >= -4 && power < 6) return plain(Number(`${digits}e${exponent}`).toPrecision(6));
    return `${plain(digits)}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
  }

  /** The most probable class; the region is every class that the margin does not rule out. */
  function readClass(values, model) {
    const order = Array.from(values.keys()).sort((a, b) => values[b] - values[a]);
    const kept = order.filter((i) => model.margin !== null && 1 - values[i] <= model.margin.width);
    return {
      label: model.info.class_names[order[0]],
      confidence: values[order[0]],
      region: kept.map((i) => model.info.class_names[i]),
      order,
      seam: null,
    };
  }

  /** First and last label at most the margin from a value; the whole range where they meet behind it on a circle. */
  function ends(value, model) {
    const { label_min: least, label_max: most, label_period: period } = model.info;
    let low = value - model.margin.width;
    let high = value + model.margin.width;
    if (period !== null) {
      if (2 * model.margin.width >= period) return [least, most];
      if (low < least && low + period <= most) low += period;
      else if (high > most && high - period >= least) high -= period;
    }
    return [Math.max(least, low), Math.min(most, high)];
  }

  function readScalar(values, model) {
    const value = values[0];
    const region = model.margin === null ? [] : ends(value, model);
    return {
      label: value,
      confidence: model.margin === null ? null : model.margin.level,
      region,
      order: null,
      seam: region.length && region[0] > region[1] ? model.info.label_max : null,
    };
  }

  /** Answers [A] of the model as label, confidence, region and seam. */
  function read(values, model) {
    return model.info.kind === "class" ? readClass(values, model) : readScalar(values, model);
  }

  /** Label, confidence and region as text. */
  function cells(reading) {
    const text = (value) => (typeof value === "string" ? value : general(value));
    const numbers = reading.region.length > 0 && typeof reading.region[0] === "number";
    const region = reading.region.map(text).join(numbers ? ".." : ", ");
    return {
      label: text(reading.label),
      confidence: reading.confidence === null ? "" : fixed(reading.confidence),
      region: (region || "none fits") + (reading.seam === null ? "" : ` (over ${general(reading.seam)})`),
    };
  }

  globalThis.cgankdAnswer = { read, cells, general, fixed };
})();
