package eventstore

import (
	"context"
	"time"
)

// Bounds of what is read before a tail begins.
const (
	primeOffsets = 200 // of each partition
	primeTime    = 500 * time.Millisecond
)

// primed is a tail that ends where empty does, or a little later, and holds what came shortly before. The clients of a node
// that was restarted come back all at once, a few records behind: ten thousand of them took the log 51 s, each with a fetch
// of its own. If it can't be read in time it is empty: what it lacks is read when it is asked for.
func (l *Log) primed(ctx context.Context, topic string, empty *Tail) *Tail {
	end := empty.End()
	ctx, cancel := context.WithTimeout(ctx, primeTime)
	defer cancel()
	oldest, err := l.Start(ctx, topic)
	if err != nil {
		return empty
	}
	from := end.Clone()
	for p := range from.Next {
		from.Next[p] = max(end.Next[p]-primeOffsets, oldest.Next[p])
	}
	tail := NewTail(from, l.cfg.TailBytes)
	for at := from; !at.Covers(end); {
		b, err := l.window(ctx, topic, at, end)
		if err != nil {
			return empty
		}
		b.Shared = true
		tail.Append(b, b.Bytes())
		at = b.Next
	}
	return tail
}
