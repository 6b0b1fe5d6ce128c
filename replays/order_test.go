package replays

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestStreamsKeepTheOrderOfTheInboxWhateverTheClocksSay: nodes receive with clocks that differ by seconds.
func TestStreamsKeepTheOrderOfTheInboxWhateverTheClocksSay(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var picks []pick
		next := [3]int64{}
		for i := range 1 + r.IntN(60) {
			p := int32(r.IntN(3))
			next[p] += 1 + r.Int64N(3)
			at := time.Unix(int64(10*i)+r.Int64N(40), 0)
			picks = append(picks, pick{received: at, partition: p, inbox: next[p]})
		}
		n := len(picks)
		r.Shuffle(n, func(i, j int) { picks[i], picks[j] = picks[j], picks[i] })
		ordered := inOrder(slices.Clone(picks))
		last := [3]int64{-1, -1, -1}
		for _, k := range ordered {
			if k.inbox <= last[k.partition] {
				t.Fatalf("partition %d: %d comes after %d", k.partition, k.inbox, last[k.partition])
			}
			last[k.partition] = k.inbox
		}
		if len(ordered) != n || !slices.IsSortedFunc(ordered, func(a, b pick) int { return cmp.Compare(a.received.UnixNano(), b.received.UnixNano()) }) {
			t.Fatalf("%d of %d, or partitions run ahead of each other", len(ordered), n)
		}
	}
}
