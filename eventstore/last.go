package eventstore

import (
	"context"
	"slices"
	"time"
)

// Bounds of a search for the last records.
const (
	lastRecords = 50_000
	lastTime    = 5 * time.Second
)

// seen is a record that a search has found.
type seen struct {
	offset int64
	time   time.Time
}

// Last is the position after which exactly the newest n events that wants passes come. Newest is meant by the events'
// own times between partitions, and by their order within one. The search goes back at most 50,000 records or five
// seconds: where there are fewer such events within that, it is the position before all that it has looked at.
func (l *Log) Last(ctx context.Context, topic string, n int, wants func(*Record) (bool, error)) (Position, error) {
	start, err := l.Start(ctx, topic)
	if err != nil {
		return Position{}, err
	}
	end, err := l.End(ctx, topic)
	if err != nil {
		return Position{}, err
	}
	select {
	case l.slots <- struct{}{}: // it reads as followers of older records do, and shares their bound
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return Position{}, ctx.Err()
	}
	low := end.Clone() // everything from here to end was looked at
	found := make([][]seen, len(end.Next))
	looked, until := 0, time.Now().Add(lastTime)
	// A transaction's marker takes an offset too, so windows begin at twice what would do without.
	for window := int64(2*n/len(end.Next) + 16); ; window *= 2 {
		from := low.Clone()
		for p := range from.Next {
			from.Next[p] = max(start.Next[p], low.Next[p]-window)
		}
		for at := from.Clone(); !at.Covers(low); {
			b, err := l.window(ctx, topic, at, low)
			if err != nil {
				return Position{}, err
			}
			for _, r := range b.Records {
				looked++
				if r.Event == nil || r.Offset >= low.Next[r.Partition] {
					continue
				}
				yes, err := wants(r)
				if err != nil {
					return Position{}, err
				}
				if yes {
					found[r.Partition] = append(found[r.Partition], seen{r.Offset, r.Event.Time})
				}
			}
			if at = b.Next; looked >= lastRecords || time.Now().After(until) {
				break
			}
		}
		if looked >= lastRecords || time.Now().After(until) {
			// This window wasn't read to its end: what it gave may have a hole.
			return low, nil
		}
		// This window's are older than the ones before.
		for p := range found {
			slices.SortFunc(found[p], func(a, b seen) int { return int(a.offset - b.offset) })
		}
		low = from
		if looked >= lastRecords || time.Now().After(until) || start.Covers(low) {
			begin, enough := pick(n, end, low, start, found, true)
			if !enough && !start.Covers(low) {
				return low, nil
			}
			return begin, nil
		}
		if begin, enough := pick(n, end, low, start, found, false); enough {
			return begin, nil
		}
	}
}

// window reads older records once, and again from other leaders where those that were believed in are gone.
func (l *Log) window(ctx context.Context, topic string, at, until Position) (*Batch, error) {
	f := &Follower{log: l, topic: topic, tail: NewTail(until, 0), at: TailReader{At: at}}
	return f.read(ctx)
}

// pick takes the newest n of what was found. It is not enough while a partition may have newer ones that were not looked
// at yet; final takes it as it is.
func pick(n int, end, low, start Position, found [][]seen, final bool) (begin Position, enough bool) {
	begin = end.Clone()
	left := make([]int, len(found))
	for p := range found {
		left[p] = len(found[p])
	}
	for ; n > 0; n-- {
		newest := -1
		for p := range found {
			if left[p] == 0 {
				if !final && low.Next[p] > start.Next[p] {
					return begin, false
				}
				continue
			}
			if newest < 0 || found[p][left[p]-1].time.After(found[newest][left[newest]-1].time) {
				newest = p
			}
		}
		if newest < 0 {
			return start, false // there are not that many
		}
		left[newest]--
		begin.Next[newest] = found[newest][left[newest]].offset
	}
	return begin, true
}
