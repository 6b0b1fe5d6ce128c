package projections

import (
	"strconv"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// appendDelivery appends what encoding/json makes of d. A row is written for every delivery, and by reflection that was
// a good part of what the delivery log costs.
func appendDelivery(b []byte, d *Delivery) []byte {
	text := func(key, value string) { b = domain.AppendJSONText(append(b, key...), value) }
	some := func(key, value string) {
		if value != "" {
			text(key, value)
		}
	}
	number := func(key string, n int64) { b = strconv.AppendInt(append(b, key...), n, 10) }
	more := func(key string, n int) {
		if n != 0 {
			number(key, int64(n))
		}
	}
	at := func(key string, t time.Time) {
		b = append(t.AppendFormat(append(append(b, key...), '"'), time.RFC3339Nano), '"')
	}
	text(`{"source":`, d.Source)
	text(`,"id":`, d.ID)
	text(`,"type":`, d.Type)
	text(`,"stream":`, string(d.Stream))
	text(`,"status":`, string(d.Status))
	some(`,"message":`, d.Message)
	text(`,"verification":`, d.Verification)
	at(`,"received":`, d.Received)
	at(`,"handled":`, d.Handled)
	number(`,"size":`, int64(d.Size))
	more(`,"attempt":`, d.Attempt)
	number(`,"repeats":`, int64(d.Repeats))
	if d.LastRepeat != nil {
		at(`,"last_repeat":`, *d.LastRepeat)
	}
	b = append(b, `,"events":[`...)
	for i, e := range d.Events {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendEventRef(b, e)
	}
	b = append(b, ']')
	more(`,"items":`, d.Items)
	for i, id := range d.Commands {
		if i == 0 {
			text(`,"commands":[`, id)
		} else {
			text(`,`, id)
		}
	}
	if len(d.Commands) > 0 {
		b = append(b, ']')
	}
	if r := d.Release; r != nil {
		text(`,"release":{"what":`, r.What)
		text(`,"by":`, r.By)
		text(`,"note":`, r.Note)
		b = append(b, '}')
	}
	if r := d.Replay; r != nil {
		text(`,"replay":{"of":`, r.Of)
		text(`,"by":`, r.By)
		text(`,"reason":`, r.Reason)
		b = append(b, '}')
	}
	more(`,"replays":`, d.Replays)
	some(`,"last_replay":`, d.LastReplay)
	number(`,"partition":`, int64(d.Partition))
	number(`,"inbox":`, d.Inbox)
	return append(b, '}')
}

func appendEventRef(b []byte, e domain.EventRef) []byte {
	b = domain.AppendJSONText(append(b, `{"id":`...), e.ID)
	b = domain.AppendJSONText(append(b, `,"type":`...), e.Type)
	b = strconv.AppendUint(append(b, `,"version":`...), e.Version, 10)
	b = strconv.AppendInt(append(b, `,"offset":`...), e.Offset, 10)
	return append(b, '}')
}
