package ingress

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
)

// TestEveryBatchRow sends the sample of each row that splits through the door and takes apart what is stored.
func TestEveryBatchRow(t *testing.T) {
	now, rows := time.Now(), splitRows()
	for _, p := range Providers {
		if p.Split == nil {
			continue
		}
		fuzzed := false
		for _, split := range rows {
			fuzzed = fuzzed || split == p.Split
		}
		if !fuzzed {
			t.Errorf("%s splits in a way that splitRows doesn't know: it isn't fuzzed", p.Name)
		}
		var stored []eventstore.Entry
		hooks, err := New(Config{
			Sources: []Source{sourceOf(p)}, Clock: func() time.Time { return now },
			Append: func(_ context.Context, e eventstore.Entry) (Durability, error) {
				stored = append(stored, e)
				return Logged, nil
			},
		})
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		send := func() {
			signed := sample(t, p, now)
			r, err := http.NewRequest(signed.Method, signed.URL, bytes.NewReader(signed.Body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header = signed.Header
			r.SetPathValue("source", p.Name)
			w := httptest.NewRecorder()
			if hooks.ServeHTTP(w, r); w.Code != 202 {
				t.Errorf("%s: %d %s", p.Name, w.Code, w.Body)
			}
		}
		if send(); len(stored) != 1 {
			t.Errorf("%s: %d entries", p.Name, len(stored))
			continue
		}
		batch := stored[0]
		if batch.Type != p.Name+".batch" || string(batch.Stream) != p.Name+"/"+batch.ID {
			t.Errorf("%s: the batch is %s of stream %s", p.Name, batch.Type, batch.Stream)
		}
		items, err := hooks.Split(batch)
		if err != nil || len(items) == 0 {
			t.Errorf("%s: %d items, %v", p.Name, len(items), err)
		}
		for i, item := range items {
			if item.Type == p.Name+".item" || !strings.HasPrefix(item.Type, p.Name+".") || !strings.HasSuffix(item.Verification, "; part of "+batch.ID) ||
				item.ID == batch.ID || !bytes.Contains(batch.Body, item.Body) && p.Split.Form == "" {
				t.Errorf("%s: item %d is %+v", p.Name, i, item)
			}
			if more, err := hooks.Split(item); err != nil || more != nil {
				t.Errorf("%s: an item splits again: %v %v", p.Name, more, err)
			}
		}
		// The next configuration doesn't have the source: the batch waits, and what is no batch goes on.
		if err := hooks.Reload(nil); err != nil {
			t.Fatal(err)
		}
		if _, err := hooks.Split(batch); err == nil {
			t.Errorf("%s: a batch without its source", p.Name)
		}
		if len(items) > 0 {
			if more, err := hooks.Split(items[0]); err != nil || more != nil {
				t.Errorf("%s: an item without its source: %v %v", p.Name, more, err)
			}
		}
	}
	for name, split := range rows {
		if !slices.ContainsFunc(Providers, func(p Provider) bool { return p.Split == split }) {
			t.Errorf("no row splits as %s", name)
		}
	}
}

// What a provider without batches calls a batch is an event like any other.
func TestATypeCalledBatch(t *testing.T) {
	hooks, err := New(Config{
		Sources: []Source{sourceOf(rowNamed(t, "github")), sourceOf(rowNamed(t, "meta"))},
		Append:  func(context.Context, eventstore.Entry) (Durability, error) { return Logged, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for source, kinds := range map[string][]string{"github": {"github.batch", "github.merge.batch"}, "gone": {"stripe.batch", "stripe.payout.batch", "meta.page.batch"}, "meta": {"meta.page.batch"}} {
		for _, kind := range kinds {
			e := batchOf("x", "no JSON")
			e.Source, e.Type = source, kind
			if items, err := hooks.Split(e); err != nil || items != nil {
				t.Errorf("%s: %v %v", kind, items, err)
			}
		}
	}
	e := batchOf("meta", `{"entry":[]}`)
	e.Source, e.Kind = "meta", eventstore.KindCommand
	if items, err := hooks.Split(e); err != nil || items != nil {
		t.Errorf("a command: %v %v", items, err)
	}
}

func rowNamed(t *testing.T, name string) Provider {
	t.Helper()
	p, ok := ProviderNamed(name)
	if !ok {
		t.Fatalf("no row %s", name)
	}
	return p
}
