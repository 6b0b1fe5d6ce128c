package ingress

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// What stands around the items used to be read again, and copied, for each of them: a batch cost its items times its size.
// A key with an escape is allocated whenever it is read, so the bytes that are allocated count the readings as well.
func TestBatchesCostTheirSize(t *testing.T) {
	const items = 2000
	var around strings.Builder // other keys, each once, of an element around the items
	for n := range items {
		fmt.Fprintf(&around, `"\u0061%d":0,`, n)
	}
	long := strings.Repeat("x", 1<<20)
	entities := strings.TrimSuffix(strings.Repeat(`{"id":"1","name":"n","operation":"o","lastUpdated":"t"},`, items), ",")
	changes := strings.TrimSuffix(strings.Repeat(`{"field":"f"},`, items), ",")
	for name, c := range map[string]struct {
		split *Split
		body  string
	}{
		"keys around each item":        {splitQuickBooks, `{"eventNotifications":[{` + around.String() + `"realmId":"r","dataChangeEvent":{"entities":[` + entities + `]}}]}`},
		"keys around the items' array": {splitMeta, `{` + around.String() + `"object":"page","entry":[{"id":"1","changes":[` + changes + `]}]}`},
		"a text that all ids have":     {splitQuickBooks, `{"eventNotifications":[{"realmId":"` + long + `","dataChangeEvent":{"entities":[` + entities + `]}}]}`},
		"a text that all types have":   {splitMeta, `{"object":"` + long + `","entry":[{"id":"` + long + `","changes":[` + changes + `]}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			e := batchOf("p", c.body)
			runtime.ReadMemStats(&before)
			children, err := SplitBatch(Provider{Name: "p", Split: c.split}, e)
			runtime.ReadMemStats(&after)
			if err != nil || len(children) != items {
				t.Fatalf("%d items, %v", len(children), err)
			}
			// Some 5 KiB for each item, whose ids hold a text of 1 KiB at most, and a few times the body.
			if got, most := after.TotalAlloc-before.TotalAlloc, uint64(items*6<<10+16*len(c.body)); got > most {
				t.Errorf("%d bytes for a body of %d with %d items, more than %d", got, len(c.body), items, most)
			}
		})
	}
}

// A long text around the items is part of their ids all the same, and a short one stands in them as it is.
func TestLongTextsAroundItems(t *testing.T) {
	id := func(realm string) string {
		t.Helper()
		children, err := SplitBatch(Provider{Name: "p", Split: splitQuickBooks}, batchOf("p",
			`{"eventNotifications":[{"realmId":"`+realm+`","dataChangeEvent":{"entities":[{"id":"1","name":"n","operation":"o","lastUpdated":"t"}]}},
 {"realmId":"other","dataChangeEvent":{"entities":[{"id":"1","name":"n","operation":"o","lastUpdated":"t"}]}}]}`))
		if err != nil || len(children) != 2 || children[1].ID != "1:n:o:t::other" {
			t.Fatalf("%v, %v", children, err)
		}
		return children[0].ID
	}
	long := strings.Repeat("r", maxShared)
	if a, b, c := id(long), id(long+"a"), id(long+"b"); a == b || b == c || a == c || b != id(long+"a") {
		t.Errorf("ids %q, %q, %q", a, b, c)
	}
	if got := id("r"); got != "1:n:o:t::r" {
		t.Errorf("id %q", got)
	}
}
