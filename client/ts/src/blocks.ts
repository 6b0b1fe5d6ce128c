/** One block of an event stream. */
export interface Block {
  id: string;
  event: string;
  data: string;
  /** Milliseconds; 0 if it doesn't say. */
  retry: number;
}

/**
 * Blocks parses an event stream as https://html.spec.whatwg.org/multipage/server-sent-events.html wants it, from pieces of
 * any length. What comes before the end without an empty line is dropped.
 */
export class Blocks {
  private rest = "";
  private afterCR = false;
  private begun = false;
  private block: Block = { id: "", event: "", data: "", retry: 0 };
  private some = false;

  /** @param limit characters of a line or a block */
  constructor(private readonly limit: number) {}

  /** push takes a piece and returns the blocks that are complete with it. It throws RangeError for one that is too long. */
  push(piece: string): Block[] {
    if (!this.begun && piece !== "") {
      this.begun = true;
      if (piece.charCodeAt(0) === 0xfeff) piece = piece.slice(1);
    }
    const out: Block[] = [];
    let from = 0;
    for (let i = 0; i < piece.length; i++) {
      const c = piece.charCodeAt(i);
      if (c !== 10 && c !== 13) {
        this.afterCR = false;
        continue;
      }
      if (c === 10 && this.afterCR) {
        this.afterCR = false; // the second half of CRLF
        from = i + 1;
        continue;
      }
      this.afterCR = c === 13;
      this.line(this.rest + piece.slice(from, i), out);
      this.rest = "";
      from = i + 1;
    }
    this.rest += piece.slice(from);
    this.bound(this.rest.length);
    return out;
  }

  private bound(length: number): void {
    if (length + this.block.data.length > this.limit) throw new RangeError("a message of the feed is larger than all bounds");
  }

  private line(line: string, out: Block[]): void {
    if (line === "") {
      const b = this.block;
      if (this.some) b.data = b.data.slice(0, -1);
      if (this.some || b.id !== "" || b.event !== "" || b.retry > 0) out.push(b);
      this.block = { id: "", event: "", data: "", retry: 0 };
      this.some = false;
      return;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    switch (name) {
      case "id":
        if (!value.includes("\0")) this.block.id = value;
        break;
      case "event":
        this.block.event = value;
        break;
      case "data":
        this.block.data += value + "\n";
        this.some = true;
        break;
      case "retry":
        if (/^\d{1,9}$/.test(value)) this.block.retry = Number(value);
        break;
    }
  }
}
