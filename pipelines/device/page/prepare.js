"use strict";
/* A picture as `cgankd predict` prepares it, to the last bit: the whole-number arithmetic of the image library that it uses. */
(() => {
  const PRECISION = 2 ** 22;
  const BAND = 256;
  const MAX_PIXELS = 2 ** 26;
  const LONGEST_PADDED = 2 ** 13;

  const WHERE = "under \u201cHow the picture is made to fit\u201d";

  /** A picture that the rules of the model do not allow; its message says why and what helps. */
  class Refused extends Error {}

  const box = { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) };
  const cubic = {
    support: 2,
    weight: (x) => {
      const d = Math.abs(x);
      if (d < 1) return ((-0.5 + 2) * d - (-0.5 + 3)) * d * d + 1;
      return d < 2 ? (((d - 5) * d + 8) * d - 4) * -0.5 : 0;
    },
  };

  /** For every place of the result: the first place of the source that counts, and whole-number weights from there on. */
  function windows(from, to, filter) {
    const scale = from / to;
    const spread = Math.max(scale, 1);
    const support = filter.support * spread;
    return Array.from({ length: to }, (_, place) => {
      const centre = (place + 0.5) * scale;
      const first = Math.max(0, Math.trunc(centre - support + 0.5));
      const end = Math.min(from, Math.trunc(centre + support + 0.5));
      const inverse = 1 / spread;
      const weights = [];
      let sum = 0;
      for (let x = 0; x < end - first; x++) {
        const weight = filter.weight((x + first - centre + 0.5) * inverse);
        weights.push(weight);
        sum += weight;
      }
      const whole = weights.map((weight) => {
        const share = sum === 0 ? weight : weight / sum;
        return Math.trunc((share < 0 ? -0.5 : 0.5) + share * PRECISION);
      });
      return { first, whole };
    });
  }

  const level = (sum) => Math.min(255, Math.max(0, Math.floor((sum + PRECISION / 2) / PRECISION)));

  /** RGBA levels to C levels a pixel: laid on the ground where transparent, grey by 0.299 R + 0.587 G + 0.114 B. */
  function channelled(rgba, channels, ground) {
    const num = rgba.length / 4;
    const out = new Uint8Array(num * channels);
    for (let i = 0; i < num; i++) {
      const alpha = rgba[4 * i + 3];
      const rgb = [0, 1, 2].map((c) => {
        const seen = rgba[4 * i + c];
        if (alpha === 255) return seen;
        const sum = seen * alpha * 128 + ground[c] * (32640 - alpha * 128) + 16384;
        return ((sum >> 8) + sum) >> 15;
      });
      if (channels === 3) out.set(rgb, 3 * i);
      else out[i] = (rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 32768) >> 16;
    }
    return out;
  }

  /** Nearest whole number; of two equally near the even one. */
  function rounded(value) {
    const low = Math.floor(value);
    if (value - low !== 0.5) return Math.round(value);
    return low % 2 === 0 ? low : low + 1;
  }

  /** Mean of the four edges, level by level. */
  function rim(read, width, height, channels) {
    const edges = [read(0, 0, width, 1), read(0, height - 1, width, 1), read(0, 0, 1, height), read(width - 1, 0, 1, height)];
    const sums = new Array(channels).fill(0);
    for (const edge of edges) edge.forEach((value, i) => (sums[i % channels] += value));
    return sums.map((sum) => rounded(sum / (2 * (width + height))));
  }

  /** Where the square lies in the picture (crop) or the picture in the square (pad), and how large what is resized is. */
  function placed(width, height, rules) {
    const whole = { left: 0, top: 0, width, height, padLeft: 0, padTop: 0, fullWidth: width, fullHeight: height };
    if (width === height || rules.fit === "stretch") return whole;
    if (rules.fit === "refuse") {
      throw new Refused(`The picture is ${width}x${height}, but this model takes square ones; choose crop, pad or stretch ${WHERE}.`);
    }
    if (rules.fit === "crop") {
      const side = Math.min(width, height);
      const left = Math.floor((width - side) / 2);
      const top = Math.floor((height - side) / 2);
      return { ...whole, left, top, width: side, height: side, fullWidth: side, fullHeight: side };
    }
    const side = Math.max(width, height);
    if (side > LONGEST_PADDED) {
      throw new Refused(`The picture is ${width}x${height}; to be padded, its longer side may have ${LONGEST_PADDED} px at most.`);
    }
    const padLeft = Math.floor((side - width) / 2);
    const padTop = Math.floor((side - height) / 2);
    return { ...whole, padLeft, padTop, fullWidth: side, fullHeight: side };
  }

  /** A function from a place in the square to its levels: those of the picture, with ground around it where it is padded. */
  function squared(read, place, channels, ground) {
    const { left, top, width, height, padLeft, padTop, fullWidth } = place;
    return (first, num) => {
      const rows = new Uint8Array(num * fullWidth * channels);
      if (ground !== null) for (let i = 0; i < rows.length; i++) rows[i] = ground[i % channels];
      const begin = Math.max(first, padTop);
      const end = Math.min(first + num, padTop + height);
      if (begin >= end) return rows;
      const seen = read(left, top + begin - padTop, width, end - begin);
      for (let y = begin; y < end; y++) {
        const line = seen.subarray((y - begin) * width * channels, (y - begin + 1) * width * channels);
        rows.set(line, ((y - first) * fullWidth + padLeft) * channels);
      }
      return rows;
    };
  }

  /** Levels [rows, width, C] made `size` wide. */
  function narrowed(rows, num, width, size, channels, filter) {
    if (width === size) return rows;
    const places = windows(width, size, filter);
    const out = new Uint8Array(num * size * channels);
    for (let y = 0; y < num; y++) {
      for (let x = 0; x < size; x++) {
        const { first, whole } = places[x];
        for (let c = 0; c < channels; c++) {
          let sum = 0;
          let at = (y * width + first) * channels + c;
          for (let k = 0; k < whole.length; k++, at += channels) sum += rows[at] * whole[k];
          out[(y * size + x) * channels + c] = level(sum);
        }
      }
    }
    return out;
  }

  /** Levels [height, line] of a function from a place to rows, made `size` high; few rows are in memory at a time. */
  function lowered(rows, height, line, size, filter) {
    if (height === size) return rows(0, height);
    const places = windows(height, size, filter);
    const sums = new Float64Array(size * line);
    let begin = 0;
    for (let first = 0; first < height; first += BAND) {
      const num = Math.min(BAND, height - first);
      const seen = rows(first, num);
      for (let y = first; y < first + num; y++) {
        while (places[begin].first + places[begin].whole.length <= y) begin++;
        for (let place = begin; place < size && places[place].first <= y; place++) {
          const weight = places[place].whole[y - places[place].first];
          const from = (y - first) * line;
          for (let x = 0; x < line; x++) sums[place * line + x] += seen[from + x] * weight;
        }
      }
    }
    return Uint8Array.from(sums, level);
  }

  /** Levels [size, size, C] of a square or stretched picture, one direction after the other in the order of the library. */
  function resized(rows, width, height, rules, filter) {
    const { size, channels } = rules;
    if (rules.tallFirst && height > size && height - size > 2 * (width - size)) {
      return narrowed(lowered(rows, height, width * channels, size, filter), size, width, size, channels, filter);
    }
    const narrow = (first, num) => narrowed(rows(first, num), num, width, size, channels, filter);
    return lowered(narrow, height, size * channels, size, filter);
  }

  /**
   * Levels [C, S, S] of a picture.
   *
   * `picture.read(left, top, width, height)` gives RGBA levels of a part; `rules` are size, channels, fit, enlarge,
   * padLevels (null: the mean of the edge), backgroundLevels, and tallFirst: whether the library shrinks the height of a
   * tall picture first. Throws Refused.
   */
  function prepare(picture, rules) {
    const { size, channels } = rules;
    if (picture.width * picture.height > MAX_PIXELS) {
      throw new Refused(`The picture has ${Math.round((picture.width * picture.height) / 1e6)} megapixels, more than the 67 that are read.`);
    }
    const place = placed(picture.width, picture.height, rules);
    const short = Math.min(place.fullWidth, place.fullHeight);
    if (short < size && !rules.enlarge) {
      throw new Refused(`The picture is ${picture.width}x${picture.height}, smaller than the ${size} px of this model; allow enlarging ${WHERE}.`);
    }
    const read = (...part) => channelled(picture.read(...part), channels, rules.backgroundLevels);
    const padded = place.fullWidth !== place.width || place.fullHeight !== place.height;
    const ground = padded ? (rules.padLevels ?? rim(read, place.width, place.height, channels)) : null;
    const rows = squared(read, place, channels, ground);
    const small = resized(rows, place.fullWidth, place.fullHeight, rules, short >= size ? box : cubic);
    const out = new Uint8Array(size * size * channels);
    for (let i = 0; i < out.length; i++) out[(i % channels) * size * size + Math.floor(i / channels)] = small[i];
    return out;
  }

  /** Whether the head of a file is that of a PNG of more than 8 bits a channel, which a browser reads otherwise. */
  function isDeep(head) {
    return [137, 80, 78, 71, 13, 10, 26, 10].every((value, i) => head[i] === value) && head[24] > 8;
  }

  globalThis.cgankdPrepare = { prepare, isDeep, Refused };
})();
