// Package client follows the feeds of a node: the events of its log, or the rows of a read model as they change. See
// docs/feeds.md for what there is to follow, and how to filter it.
//
// Follow goes over a WebSocket where one gets through, else over Server-Sent Events, else page by page. It survives
// connections that break or fall silent and nodes that restart, and goes on after the last message that was handled.
//
// # Delivery
//
// Messages come one after the other, on the goroutine that called Follow, in the order of their partition. The cursor
// moves on only when the handler has returned nil. Within one Follow nothing comes twice; a program that ends between
// handling a message and storing its cursor gets that message again. Store the cursor with the effect, in one
// transaction, to handle everything exactly once.
//
// # Ends
//
// Follow returns nil when a finite feed (until, limit) is complete, the handler's error, ctx.Err(), or a *Refused:
// an answer that asking again would not change. Everything else is waited out: 1 s, 2 s … up to 30 s, or as long as
// the node asks for, up to two minutes, always with some jitter. Options.Notice hears of it.
//
// # Gaps
//
// A cursor that the node can't honour ends Follow with a *Refused of kind expired, reset or future, unless Options.OnGap
// says where to go on. Then a message of KindReset stands where events may be missing.
//
// # Bounds
//
// A message has at most 64 MiB. Of what comes over a WebSocket at most 1 MiB (and always one message) is read ahead of
// the handler, so that pings are answered while it works; a handler that takes minutes with more than that outstanding
// loses its connection, and nothing else.
package client
