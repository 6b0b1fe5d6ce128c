package egress

import (
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"testing"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// TestPageStopsAnywhereInABatch takes batches apart at every bound and checks that reading on from the page's position
// gives every record once, per partition in order.
func TestPageStopsAnywhereInABatch(t *testing.T) {
	rnd := newRand(t)
	zero := eventstore.Position{Next: make([]int64, 3)}
	for range 300 {
		// A log of three partitions with holes, where transaction markers stand.
		var records []*eventstore.Record
		end := zero.Clone()
		for i := range rnd.IntN(30) {
			p := int32(rnd.IntN(3))
			end.Next[p] += int64(rnd.IntN(2))
			records = append(records, &eventstore.Record{Partition: p, Offset: end.Next[p], Event: &domain.Event{
				ID: strconv.Itoa(i), Type: []string{"a", "b"}[rnd.IntN(2)], Stream: "s/x", Version: 1}})
			end.Next[p]++
		}
		for p := range end.Next {
			end.Next[p] += int64(rnd.IntN(2))
		}
		filter, err := ParseFilter(url.Values{"type": {"a"}})
		if err != nil {
			t.Fatal(err)
		}
		limit := 1 + rnd.IntN(5)
		var want, got []string
		for _, r := range records {
			if r.Event.Type == "a" {
				want = append(want, r.Event.ID)
			}
		}
		at := zero
		for pages := 0; !at.Covers(end); pages++ {
			if pages > len(records)+1 {
				t.Fatal("the pages don't end")
			}
			b := &eventstore.Batch{Next: end}
			for _, r := range records {
				if r.Offset >= at.Next[r.Partition] {
					b.Records = append(b.Records, r)
				}
			}
			p := pager{sub: &Subscription{Filter: filter, Reader: nowhere{}}, limit: limit, page: Page{Position: at}}
			if err := p.take(b); err != nil {
				t.Fatal(err)
			}
			p.finish()
			if len(p.page.Items) > limit {
				t.Fatalf("%d items, limit %d", len(p.page.Items), limit)
			}
			for _, item := range p.page.Items {
				var e struct{ ID string }
				if err := json.Unmarshal(item, &e); err != nil {
					t.Fatal(err)
				}
				got = append(got, e.ID)
			}
			at = p.page.Position
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

func TestPageIsBoundedInBytes(t *testing.T) {
	big := make([]byte, pageBytes/2+1)
	b := &eventstore.Batch{Next: eventstore.Position{Next: []int64{9}}}
	for i := range 9 {
		b.Records = append(b.Records, &eventstore.Record{Offset: int64(i), Event: &domain.Event{ID: "x", ContentType: "text/plain", Data: big}})
	}
	p := pager{sub: &Subscription{}, limit: 1000, page: Page{Position: eventstore.Position{Next: []int64{0}}}}
	if err := p.take(b); err != nil || len(p.records) != 2 || p.page.Position.Next[0] != 2 {
		t.Errorf("%d items up to %v, %v", len(p.records), p.page.Position.Next, err)
	}
}
