package projections

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// Deliveries is the delivery log: one row for each delivery id of each source, from the outcomes.
//
// It forgets by the log's own time, partition by partition, so that every node forgets the same rows: a partition's row
// goes when an outcome of the partition was decided Keep after the row's delivery was received, or when the partition's
// inbox has grown by Most entries since.
type Deliveries struct {
	Keep time.Duration // 30 days by default, as long as the inbox has the exact requests
	Most int64         // inbox entries of each partition that the log reaches back over; 5 million by default
}

const (
	defaultKeep = 30 * 24 * time.Hour
	defaultMost = 5_000_000
)

// Delivery is a row of the delivery log, keyed by source/id.
type Delivery struct {
	Source       string            `json:"source"`
	ID           string            `json:"id" doc:"the provider's delivery id"`
	Type         string            `json:"type"`
	Stream       domain.Stream     `json:"stream"`
	Status       domain.Status     `json:"status" enum:"accepted,parked,discarded" doc:"what became of it"`
	Message      string            `json:"message,omitempty" doc:"why it was parked, in a line"`
	Verification string            `json:"verification" doc:"scheme and binding class, for example \"github; body\""`
	Received     time.Time         `json:"received"`
	Handled      time.Time         `json:"handled" doc:"when it was decided"`
	Size         int               `json:"size" doc:"bytes of the body"`
	Attempt      int               `json:"attempt,omitempty" doc:"which try of the provider it was, if its headers say so"`
	Repeats      int               `json:"repeats" doc:"how often the same id came again, without any effect"`
	LastRepeat   *time.Time        `json:"last_repeat,omitempty"`
	Events       []domain.EventRef `json:"events" nullable:"false"`
	Items        int               `json:"items,omitempty" doc:"of a batch: how many deliveries it was taken apart into"`
	Commands     []string          `json:"commands,omitempty" nullable:"false" doc:"ids of the commands that policies asked for"`
	Release      *DeliveryRelease  `json:"release,omitempty" doc:"it was parked, and somebody released it"`
	Replay       *DeliveryReplay   `json:"replay,omitempty" doc:"it repeats another delivery on somebody's behalf"`
	Replays      int               `json:"replays,omitempty" doc:"how often it was replayed"`
	LastReplay   string            `json:"last_replay,omitempty" doc:"delivery id of the newest replay"`
	Partition    int32             `json:"partition"`
	Inbox        int64             `json:"inbox" doc:"offset in the inbox"`
}

// DeliveryRelease says who released a parked delivery.
type DeliveryRelease struct {
	What string `json:"what" enum:"requeue,discard"`
	By   string `json:"by"`
	Note string `json:"note"`
}

// DeliveryReplay says whose replay a delivery is.
type DeliveryReplay struct {
	Of     string `json:"of" doc:"id of the delivery that it repeats"`
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// The indexes. Partitions have ranges of their own, in which both reading by time and forgetting are a single scan.
const (
	indexByTime  = "by-time" // tag, partition, received, inbox offset → key of the row
	indexRetries = "retries" // source, 0, attempt → how many
)

// The tags of indexByTime. Every delivery has one; the few that were not accepted have a second one, so that they are
// found among millions.
const (
	tagAny       = 'a'
	tagParked    = 'p'
	tagDiscarded = 'd'
)

// Name is "deliveries".
func (Deliveries) Name() string { return "deliveries" }

// Version of the fold.
func (Deliveries) Version() int { return 2 }

// Apply is not called: the deliveries are a fold of the outcomes.
func (Deliveries) Apply(*eventstore.Tx, domain.Event) error { return nil }

// ApplyOutcome folds what became of a delivery.
func (p Deliveries) ApplyOutcome(tx *eventstore.Tx, o domain.Outcome) error {
	if err := p.forget(tx, o); err != nil {
		return err
	}
	if o.Kind != eventstore.KindDelivery {
		return nil
	}
	if o.Release != "" && o.Status == domain.Duplicate {
		return nil // a release that came too late, and none of the provider's doing
	}
	key := deliveryKey(o.Source, o.ID)
	b := tx.Get(key)
	if b == nil {
		return p.first(tx, key, o)
	}
	var d Delivery
	if err := json.Unmarshal(b, &d); err != nil {
		return fmt.Errorf("row %s: %w", key, err)
	}
	if o.Release != "" {
		was := d.Status
		d.Status, d.Message, d.Handled, d.Events, d.Items, d.Commands = o.Status, brief(o.Message), o.Handled, o.Events, o.Items, o.Commands
		d.Release = &DeliveryRelease{o.Release, o.By, o.Note}
		if err := retag(tx, d, was, key); err != nil {
			return err
		}
		return putDelivery(tx, key, d)
	}
	d.Repeats++
	d.LastRepeat = &o.Received
	if o.ReplayOf == "" {
		if err := countRetry(tx, o.Source, max(d.Repeats+1, o.Attempt)); err != nil {
			return err
		}
	}
	return putDelivery(tx, key, d)
}

// first adds the row of a delivery.
func (Deliveries) first(tx *eventstore.Tx, key string, o domain.Outcome) error {
	d := Delivery{
		Source: o.Source, ID: o.ID, Type: o.Type, Stream: o.Stream, Status: o.Status, Message: brief(o.Message), Verification: o.Verification,
		Received: o.Received, Handled: o.Handled, Size: o.Size, Attempt: o.Attempt, Events: o.Events, Items: o.Items, Commands: o.Commands,
		Partition: o.Partition, Inbox: o.Inbox,
	}
	if o.Status == domain.Duplicate { // of a delivery whose own outcome has left the log
		d.Status, d.Repeats, d.LastRepeat = o.Original, 1, &o.Received
	}
	if o.Release != "" {
		d.Release = &DeliveryRelease{o.Release, o.By, o.Note}
	}
	if o.ReplayOf != "" {
		d.Replay = &DeliveryReplay{o.ReplayOf, o.By, o.Note}
		if o.Release != "" {
			d.Replay.By, d.Replay.Reason = "", "" // who wanted the replay has left the log
		}
		if err := replayed(tx, deliveryKey(o.Source, o.ReplayOf), o.ID); err != nil {
			return err
		}
	} else if attempt := max(d.Repeats+1, o.Attempt); attempt > 1 {
		if err := countRetry(tx, o.Source, attempt); err != nil {
			return err
		}
	}
	index, err := tx.Index(indexByTime)
	if err != nil {
		return err
	}
	if err := index.Append(timeKey(tagAny, d), []byte(key)); err != nil {
		return err
	}
	if err := retag(tx, d, domain.Accepted, key); err != nil {
		return err
	}
	return putDelivery(tx, key, d)
}

// replayed notes on the original that it was replayed under another id. Both are of one stream, so of one partition.
func replayed(tx *eventstore.Tx, original, id string) error {
	b := tx.Get(original)
	if b == nil {
		return nil // forgotten
	}
	var d Delivery
	if err := json.Unmarshal(b, &d); err != nil {
		return fmt.Errorf("row %s: %w", original, err)
	}
	d.Replays++
	d.LastReplay = id
	return putDelivery(tx, original, d)
}

// tagOf is the second tag of a status, 0 for none.
func tagOf(s domain.Status) byte {
	switch s {
	case domain.Parked:
		return tagParked
	case domain.Discarded:
		return tagDiscarded
	}
	return 0
}

// retag moves a row in the index after its status was another.
func retag(tx *eventstore.Tx, d Delivery, was domain.Status, key string) error {
	from, to := tagOf(was), tagOf(d.Status)
	if from == to {
		return nil
	}
	index, err := tx.Index(indexByTime)
	if err != nil {
		return err
	}
	if from != 0 {
		if err := index.Delete(timeKey(from, d)); err != nil {
			return err
		}
	}
	if to == 0 {
		return nil
	}
	return index.Put(timeKey(to, d), []byte(key))
}

// forgetting is how many of the oldest rows one outcome looks at: several times what comes in between two looks.
const forgetting = 256

// forget drops the oldest rows of the outcome's partition that are beyond a bound. It looks at every 64th inbox offset
// or the one after it: where each entry is followed by a transaction's marker, it may be only the odd or the even ones
// that are entries.
func (p Deliveries) forget(tx *eventstore.Tx, o domain.Outcome) error {
	if o.Inbox>>1%32 != 0 {
		return nil
	}
	keep, most := p.Keep, p.Most
	if keep == 0 {
		keep = defaultKeep
	}
	if most == 0 {
		most = defaultMost
	}
	index, err := tx.Index(indexByTime)
	if err != nil {
		return err
	}
	type entry struct {
		place []byte
		key   string
	}
	var old []entry
	looked, oldest := 0, o.Handled.Add(-keep)
	prefix := lanePrefix(tagAny, o.Partition)
	index.Scan(prefix, func(k, v []byte) bool {
		if string(k[:len(prefix)]) != string(prefix) || looked == forgetting {
			return false
		}
		looked++
		received, inbox := splitTimeKey(k)
		aged := received.Before(oldest)
		if aged || inbox < o.Inbox-most {
			old = append(old, entry{append([]byte(nil), k...), string(v)})
		}
		return aged || len(old) > 0
	})
	for _, e := range old {
		if err := index.Delete(e.place); err != nil {
			return err
		}
		for _, tag := range []byte{tagParked, tagDiscarded} {
			e.place[0] = tag
			if index.Get(e.place) != nil {
				if err := index.Delete(e.place); err != nil {
					return err
				}
			}
		}
		if err := tx.Delete(e.key); err != nil {
			return err
		}
	}
	return nil
}

// maxAttempt is the last attempt that is counted apart; it stands for all later ones too.
const maxAttempt = 5

func countRetry(tx *eventstore.Tx, source string, attempt int) error {
	return count(tx, indexRetries, source+"\x00"+string(rune(min(attempt, maxAttempt))), 1)
}

// brief is the first line of a text, as much as a list shows. The rest is where the entry is parked.
func brief(s string) string {
	s, _, more := strings.Cut(s, "\n")
	if text := []rune(s); len(text) > 300 {
		s, more = string(text[:299]), true
	}
	if more {
		s += "…"
	}
	return s
}

func putJSON(tx *eventstore.Tx, key string, row any) error {
	b, err := json.Marshal(row)
	if err != nil {
		return err
	}
	return tx.Put(key, b)
}

func putDelivery(tx *eventstore.Tx, key string, d Delivery) error {
	if y := d.Received.Year(); y < 0 || y > 9999 {
		return fmt.Errorf("row %s: the year %d has no RFC 3339 form", key, y)
	}
	return tx.Put(key, appendDelivery(make([]byte, 0, 768), &d))
}

func deliveryKey(source, id string) string { return source + "/" + id }

func lanePrefix(tag byte, partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{tag}, uint32(partition))
}

// timeKey is unique: an inbox record is handled once.
func timeKey(tag byte, d Delivery) []byte {
	return deliverySpot{max(0, d.Received.UnixNano()), d.Partition, d.Inbox}.key(tag)
}

func splitTimeKey(k []byte) (received time.Time, inbox int64) {
	return time.Unix(0, int64(binary.BigEndian.Uint64(k[5:]))), int64(binary.BigEndian.Uint64(k[13:]))
}

// deliverySpot is a delivery's place in the order of the list: by the time it was received, then by partition and inbox offset.
type deliverySpot struct {
	received  int64
	partition int32
	inbox     int64
}

func (s deliverySpot) key(tag byte) []byte {
	b := make([]byte, 0, 21)
	b = append(b, tag)
	b = binary.BigEndian.AppendUint32(b, uint32(s.partition))
	b = binary.BigEndian.AppendUint64(b, uint64(s.received))
	return binary.BigEndian.AppendUint64(b, uint64(s.inbox))
}

func placeOf(k []byte) deliverySpot {
	return deliverySpot{int64(binary.BigEndian.Uint64(k[5:])), int32(binary.BigEndian.Uint32(k[1:])), int64(binary.BigEndian.Uint64(k[13:]))}
}
