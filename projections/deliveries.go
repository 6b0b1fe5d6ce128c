package projections

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// Deliveries is the delivery log: one row for each delivery id of each source, from the outcomes.
type Deliveries struct{}

// Delivery is a row of the delivery log, keyed by source/id.
type Delivery struct {
	Source       string            `json:"source"`
	ID           string            `json:"id" doc:"the provider's delivery id"`
	Type         string            `json:"type"`
	Stream       domain.Stream     `json:"stream"`
	Status       domain.Status     `json:"status" enum:"accepted,parked,discarded" doc:"what became of it"`
	Message      string            `json:"message,omitempty" doc:"why it was parked"`
	Verification string            `json:"verification" doc:"scheme and binding class, for example \"github; body\""`
	Received     time.Time         `json:"received"`
	Handled      time.Time         `json:"handled"`
	Size         int               `json:"size" doc:"bytes of the body"`
	Repeats      int               `json:"repeats" doc:"how often the same id came again, without any effect"`
	LastRepeat   *time.Time        `json:"last_repeat,omitempty"`
	Events       []domain.EventRef `json:"events"`
	Commands     []string          `json:"commands,omitempty" doc:"ids of the commands that policies asked for"`
	Partition    int32             `json:"partition"`
	Inbox        int64             `json:"inbox" doc:"offset in the inbox"`
}

// indexByTime orders deliveries by when they were received.
const indexByTime = "by-time"

// Name is "deliveries".
func (Deliveries) Name() string { return "deliveries" }

// Version of the fold.
func (Deliveries) Version() int { return 1 }

// Apply is not called: the deliveries are a fold of the outcomes.
func (Deliveries) Apply(*eventstore.Tx, domain.Event) error { return nil }

// ApplyOutcome folds what became of a delivery.
func (Deliveries) ApplyOutcome(tx *eventstore.Tx, o domain.Outcome) error {
	if o.Kind != eventstore.KindDelivery {
		return nil
	}
	key := deliveryKey(o.Source, o.ID)
	if b := tx.Get(key); b != nil {
		var d Delivery
		if err := json.Unmarshal(b, &d); err != nil {
			return fmt.Errorf("row %s: %w", key, err)
		}
		if o.Release != "" && o.Status != domain.Duplicate { // it was parked, and an operator released it
			d.Status, d.Message, d.Handled, d.Events, d.Commands = o.Status, o.Message, o.Handled, o.Events, o.Commands
			if d.Events == nil {
				d.Events = []domain.EventRef{}
			}
			return putJSON(tx, key, d)
		}
		d.Repeats++
		d.LastRepeat = &o.Received
		return putJSON(tx, key, d)
	}
	d := Delivery{
		Source: o.Source, ID: o.ID, Type: o.Type, Stream: o.Stream, Status: o.Status, Message: o.Message, Verification: o.Verification,
		Received: o.Received, Handled: o.Handled, Size: o.Size, Events: o.Events, Commands: o.Commands, Partition: o.Partition, Inbox: o.Inbox,
	}
	if d.Status == domain.Duplicate { // of a delivery whose own outcome has left the log
		d.Status = o.Original
	}
	if d.Events == nil {
		d.Events = []domain.EventRef{}
	}
	index, err := tx.Index(indexByTime)
	if err != nil {
		return err
	}
	if err := index.Put(timeKey(o), []byte(key)); err != nil {
		return err
	}
	return putJSON(tx, key, d)
}

func putJSON(tx *eventstore.Tx, key string, row any) error {
	b, err := json.Marshal(row)
	if err != nil {
		return err
	}
	return tx.Put(key, b)
}

func deliveryKey(source, id string) string { return source + "/" + id }

// timeKey is unique: an inbox record is handled once.
func timeKey(o domain.Outcome) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(o.Received.UnixNano()))
	b = binary.BigEndian.AppendUint32(b, uint32(o.Partition))
	return binary.BigEndian.AppendUint64(b, uint64(o.Inbox))
}

// DeliveryFilter narrows a page of deliveries. Empty fields match everything; Type may contain *.
type DeliveryFilter struct{ Source, Type, Status string }

func (f DeliveryFilter) matches(d Delivery) bool {
	return (f.Source == "" || f.Source == d.Source) && (f.Status == "" || f.Status == string(d.Status)) &&
		(f.Type == "" || domain.MatchType(f.Type, d.Type))
}

// scanLimit bounds how many deliveries one page looks at; a page may then be short and still have a next one.
const scanLimit = 20_000

// DeliveryPage returns at most limit deliveries, newest first, after the given cursor ("" for the first page). next is
// "" on the last page. v must be the view of Deliveries.
func DeliveryPage(v *View, f DeliveryFilter, cursor string, limit int) (items []Delivery, next string, err error) {
	before, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || (cursor != "" && len(before) != 20) {
		return nil, "", eventstore.ErrBadPosition
	}
	if cursor == "" {
		before = nil
	}
	items = []Delivery{}
	err = v.table.View(func(tx *eventstore.Tx) error {
		index, err := tx.Index(indexByTime)
		if err != nil {
			return err
		}
		scanned := 0
		var last []byte
		index.ScanBack(before, func(k, key []byte) bool {
			if len(items) == limit || scanned == scanLimit {
				next = base64.RawURLEncoding.EncodeToString(last)
				return false
			}
			scanned++
			last = append(last[:0], k...)
			var d Delivery
			if err = json.Unmarshal(tx.Get(string(key)), &d); err != nil {
				return false
			}
			if f.matches(d) {
				items = append(items, d)
			}
			return true
		})
		return err
	})
	return items, next, err
}

// DeliveryGet returns one delivery.
func DeliveryGet(v *View, source, id string) (d Delivery, ok bool, err error) {
	b, _, err := v.Get(deliveryKey(source, id))
	if err != nil || b == nil {
		return d, false, err
	}
	return d, true, json.Unmarshal(b, &d)
}
