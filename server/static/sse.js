// Server-sent events out of a byte stream, as WHATWG's HTML describes them.

/**
 * The data of each event of `stream` (a ReadableStream of bytes). Lines end in LF, CR or CRLF;
 * comments and other fields are skipped; an event the stream ends in the middle of is dropped.
 */
export async function* events(stream) {
  const reader = stream.getReader();
  const lines = new Lines();
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      for (const line of lines.add(value)) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        } else if (line === "data") {
          data.push("");
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Whole lines of bytes that arrive in pieces, cut anywhere. */
class Lines {
  #decoder = new TextDecoder("utf-8"); // drops a byte order mark at the beginning
  #rest = "";
  #afterReturn = false;

  add(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (this.#afterReturn && text) {
      if (text[0] === "\n") text = text.slice(1);
      this.#afterReturn = false;
    }
    if (text.endsWith("\r")) this.#afterReturn = true; // its line feed may come with the next piece
    const parts = text.split(/\r\n|\n|\r/);
    parts[0] = this.#rest + parts[0];
    this.#rest = parts.pop();
    return parts;
  }
}
