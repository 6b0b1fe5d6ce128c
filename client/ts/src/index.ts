/** Follow the feeds of a Penstock node: the events of its log, or the rows of a read model as they change. */
export { follow } from "./follow.js";
export { Refused } from "./refused.js";
export type { Options } from "./options.js";
export type { Change, CloudEvent, Message, Notice, Reset, Transport } from "./messages.js";
