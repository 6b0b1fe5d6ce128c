package projections

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// DeliveryFilter narrows a list of deliveries. Empty fields match everything.
type DeliveryFilter struct {
	Source string
	Type   string // may contain *
	Status domain.Status
	Stream domain.Stream
	ID     string    // the beginning of the id
	Text   string    // somewhere in id, stream or type, whatever its case
	Since  time.Time // received then or later
	Until  time.Time // received before
	Replay string    // made by this replay
}

// replayMark stands between the id of a delivery and that of its replay.
const replayMark = "~replay-"

// ReplayID is the id under which a replay repeats a delivery: the same for the same two, so that a replay which is run
// again repeats nothing.
func ReplayID(original, replay string) string { return original + replayMark + replay }

func (f DeliveryFilter) matches(d *Delivery) bool {
	return (f.Status == "" || f.Status == d.Status) && (f.Stream == "" || f.Stream == d.Stream) &&
		(f.Type == "" || domain.MatchType(f.Type, d.Type)) &&
		(f.Since.IsZero() || !d.Received.Before(f.Since)) && (f.Until.IsZero() || d.Received.Before(f.Until)) &&
		(f.Replay == "" || d.Replay != nil) &&
		(f.Text == "" || contains(d.ID, f.Text) || contains(string(d.Stream), f.Text) || contains(d.Type, f.Text))
}

func contains(s, part string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(part))
}

// names says what a row's key alone decides, so that most rows of other sources are never decoded.
func (f DeliveryFilter) names(key string) bool {
	source, id, _ := strings.Cut(key, "/")
	return (f.Source == "" || f.Source == source) && strings.HasPrefix(id, f.ID) && (f.Replay == "" || strings.HasSuffix(id, replayMark+f.Replay))
}

func (f DeliveryFilter) tag() byte {
	if tag := tagOf(f.Status); tag != 0 {
		return tag
	}
	return tagAny
}

// Bounds of one page of deliveries: it may then be short and still have a next one. A decoded row costs about as much
// as twenty keys that are only looked at.
const (
	pageCost = 400_000
	rowCost  = 20
	viewCost = 40_000 // of one transaction: a long one keeps the file from reusing its pages
)

// DeliveryPage returns at most limit deliveries after the given cursor ("" for the first page). They are ordered by when
// they were received, newest first, or, if the filter has an ID, by source and id. What comes in between two pages is
// on neither, and nothing else is left out or repeated. next is "" on the last page. v must be the view of Deliveries.
func DeliveryPage(ctx context.Context, v *View, f DeliveryFilter, cursor string, limit int) (items []Delivery, next string, err error) {
	items = []Delivery{}
	at, err := parseDeliveryCursor(cursor, f.ID != "")
	if err != nil {
		return nil, "", err
	}
	for spent := 0; ; {
		var cost int
		err = v.readOwn(func(tx *eventstore.Tx) error {
			r := &deliveryReader{tx: tx, filter: f, limit: limit - len(items), budget: min(viewCost, pageCost-spent)}
			if f.ID != "" {
				err = r.byID(at.key)
			} else {
				err = r.byTime(lanesOf(v, f), at.spot, true)
			}
			items, at, cost = append(items, r.items...), r.at, r.cost
			return err
		})
		if err != nil {
			return nil, "", err
		}
		if at.end {
			return items, "", nil
		}
		if spent += cost; len(items) >= limit || spent >= pageCost {
			return items, at.String(), nil
		}
		if ctx.Err() != nil {
			return nil, "", ctx.Err()
		}
	}
}

// EachDelivery calls f for every delivery that passes the filter, oldest first, until f returns an error, which it
// returns, or ctx ends. Each is as it was when it was come to.
func EachDelivery(ctx context.Context, v *View, filter DeliveryFilter, f func(Delivery) error) error {
	at := deliveryCursor{}
	for !at.end {
		var items []Delivery
		err := v.readOwn(func(tx *eventstore.Tx) error {
			r := &deliveryReader{tx: tx, filter: filter, limit: 1000, budget: viewCost}
			err := r.byTime(lanesOf(v, filter), at.spot, false)
			items, at = r.items, r.at
			return err
		})
		if err != nil {
			return err
		}
		for _, d := range items {
			if err := f(d); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// DeliveryGet returns one delivery.
func DeliveryGet(v *View, source, id string) (d Delivery, ok bool, err error) {
	b, _, err := v.Get(deliveryKey(source, id))
	if err != nil || b == nil {
		return d, false, err
	}
	return d, true, json.Unmarshal(b, &d)
}

// lanesOf returns the partitions that the filter's deliveries can be in.
func lanesOf(v *View, f DeliveryFilter) (partitions []int32) {
	if f.Stream != "" {
		return []int32{v.log.PartitionOf(f.Stream)}
	}
	for p := range v.log.Partitions() {
		partitions = append(partitions, p)
	}
	return partitions
}

// deliveryReader reads a stretch of the list within one transaction: up to limit deliveries for about budget.
type deliveryReader struct {
	tx     *eventstore.Tx
	filter DeliveryFilter
	limit  int
	budget int

	items []Delivery
	cost  int
	at    deliveryCursor // after what was looked at
}

func (r *deliveryReader) full() bool { return len(r.items) >= r.limit || r.cost >= r.budget }

// look takes the row of a key if it passes the filter.
func (r *deliveryReader) look(key string, row func() []byte) error {
	r.cost++
	if !r.filter.names(key) {
		return nil
	}
	r.cost += rowCost
	var d Delivery
	if err := json.Unmarshal(row(), &d); err != nil {
		return fmt.Errorf("row %s of deliveries: %w", key, err)
	}
	if r.filter.matches(&d) {
		r.items = append(r.items, d)
	}
	return nil
}

// byTime merges the partitions' ranges of the index, backwards or forwards, from after a place on (nil for the
// beginning).
func (r *deliveryReader) byTime(partitions []int32, after *deliverySpot, back bool) error {
	index, err := r.tx.Index(indexByTime)
	if err != nil {
		return err
	}
	tag := r.filter.tag()
	lanes := make([]*lane, len(partitions))
	for i, p := range partitions {
		lanes[i] = newLane(index, tag, p, r.filter, after, back)
	}
	for {
		var best *lane
		for _, l := range lanes {
			if l.fill(); len(l.ahead) > 0 && (best == nil || l.ahead[0].spot.before(best.ahead[0].spot) != back) {
				best = l
			}
		}
		if best == nil {
			r.at = deliveryCursor{end: true}
			return nil
		}
		if r.full() { // there is more: a page that ends exactly here is the last one
			r.at = deliveryCursor{spot: after}
			return nil
		}
		next := best.ahead[0]
		best.ahead = best.ahead[1:]
		after = &next.spot
		if err := r.look(next.key, func() []byte { return r.tx.Get(next.key) }); err != nil {
			return err
		}
	}
}

// lane reads the index's range of one partition, a few entries at a time.
type lane struct {
	index  eventstore.Index
	prefix []byte
	from   []byte // forwards the first key to read, backwards the one before which to read
	stop   []byte // forwards the key to stop at, backwards the last one to read
	back   bool
	done   bool
	ahead  []laneEntry
}

type laneEntry struct {
	spot deliverySpot
	key  string
}

const laneAhead = 32

func newLane(index eventstore.Index, tag byte, partition int32, f DeliveryFilter, after *deliverySpot, back bool) *lane {
	low, high := deliverySpot{0, partition, 0}, deliverySpot{math.MaxInt64, partition, math.MaxInt64}
	if !f.Since.IsZero() {
		low.received = max(0, f.Since.UnixNano())
	}
	if !f.Until.IsZero() {
		high = deliverySpot{max(0, f.Until.UnixNano()), partition, 0}
	}
	if after != nil && back {
		// Of those received in the same moment, the ones in lower partitions come later in this order.
		bound := deliverySpot{after.received, partition, after.inbox}
		switch {
		case partition < after.partition:
			bound.inbox = math.MaxInt64
		case partition > after.partition:
			bound.inbox = 0
		}
		if bound.before(high) {
			high = bound
		}
	}
	if after != nil && !back {
		bound := deliverySpot{after.received, partition, after.inbox + 1}
		switch {
		case partition < after.partition:
			bound.inbox = math.MaxInt64
		case partition > after.partition:
			bound.inbox = 0
		}
		if low.before(bound) {
			low = bound
		}
	}
	l := &lane{index: index, prefix: lanePrefix(tag, partition), from: low.key(tag), stop: high.key(tag), back: back}
	if back {
		l.from, l.stop = l.stop, l.from
	}
	return l
}

// fill reads ahead when nothing is.
func (l *lane) fill() {
	if len(l.ahead) > 0 || l.done {
		return
	}
	l.ahead = l.ahead[:0:0]
	last := l.from
	l.done = true
	take := func(k, v []byte) bool {
		if string(k[:min(len(k), len(l.prefix))]) != string(l.prefix) || (l.back && string(k) < string(l.stop)) || (!l.back && string(k) >= string(l.stop)) {
			return false
		}
		if len(l.ahead) == laneAhead {
			l.done = false
			return false
		}
		l.ahead = append(l.ahead, laneEntry{placeOf(k), string(v)})
		last = k
		return true
	}
	if l.back {
		l.index.ScanBack(l.from, take)
	} else {
		l.index.Scan(l.from, take)
	}
	l.from = append([]byte(nil), last...)
	if !l.back {
		l.from = append(l.from, 0) // after it
	}
}

// byID reads the rows whose id begins as the filter says, source by source, after a row's key ("" for the beginning).
func (r *deliveryReader) byID(after string) error {
	source := r.filter.Source
	if source == "" {
		source = r.sourceFrom(after)
	}
	for source != "" {
		prefix := deliveryKey(source, r.filter.ID)
		more := false
		var err error
		r.tx.Scan(max(prefix, after+"\x00"), func(k, row []byte) bool {
			key := string(k)
			if !strings.HasPrefix(key, prefix) {
				return false
			}
			if r.full() {
				more = true
				return false
			}
			after = key
			err = r.look(key, func() []byte { return row })
			return err == nil
		})
		if err != nil {
			return err
		}
		if more {
			r.at = deliveryCursor{key: after}
			return nil
		}
		if r.filter.Source != "" {
			break
		}
		source = r.sourceFrom(source + "0") // '0' comes after '/'
	}
	r.at = deliveryCursor{end: true}
	return nil
}

// sourceFrom returns the source of the first row whose key is not before key, "" if there is none.
func (r *deliveryReader) sourceFrom(key string) (source string) {
	r.tx.Scan(key, func(k, _ []byte) bool {
		source, _, _ = strings.Cut(string(k), "/")
		return false
	})
	return source
}

// deliveryCursor says where a list goes on: after a place in time, or after a key.
type deliveryCursor struct {
	spot *deliverySpot
	key  string
	end  bool
}

func (c deliveryCursor) String() string {
	if c.spot != nil {
		return base64.RawURLEncoding.EncodeToString(c.spot.key('t'))
	}
	return base64.RawURLEncoding.EncodeToString([]byte("k" + c.key))
}

// parseDeliveryCursor refuses a cursor of the other order.
func parseDeliveryCursor(text string, byID bool) (c deliveryCursor, err error) {
	if text == "" {
		return c, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	switch {
	case err != nil || len(b) == 0:
		return c, eventstore.ErrBadPosition
	case !byID && b[0] == 't' && len(b) == 21:
		s := placeOf(b)
		return deliveryCursor{spot: &s}, nil
	case byID && b[0] == 'k' && strings.Contains(string(b), "/"):
		return deliveryCursor{key: string(b[1:])}, nil
	}
	return c, eventstore.ErrBadPosition
}

// before is the order of the list, oldest first.
func (s deliverySpot) before(o deliverySpot) bool {
	if s.received != o.received {
		return s.received < o.received
	}
	if s.partition != o.partition {
		return s.partition < o.partition
	}
	return s.inbox < o.inbox
}
