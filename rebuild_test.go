package penstock_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
	"github.com/penstock-io/penstock/projections"
)

// picky is a read model that can't take one customer's events until it is mended.
type picky struct{ mended *atomic.Bool }

func (picky) Name() string { return "picky" }
func (picky) Version() int { return 1 }

func (p picky) Apply(tx *eventstore.Tx, e domain.Event) error {
	if e.Stream == "stripe/cus_bad" && !p.mended.Load() {
		return errors.New("no \x1b[31mway\nsecond line")
	}
	return tx.Put(e.ID, []byte(`{}`))
}

// TestProjectionsFromTheCommandLine has an operator find a halted projection, leave a record out, rebuild and go back.
func TestProjectionsFromTheCommandLine(t *testing.T) {
	app, mended := billingApp(), &atomic.Bool{}
	app.Projections = append(app.Projections, picky{mended})
	n := startApp(t, nodeConfig(t), app)
	run := func(args ...string) said {
		t.Helper()
		return command(t, append(args, "--url", n.URL())...)
	}
	status := func(name string) (s projections.Status) {
		t.Helper()
		n.get(t, "/v1/projections/"+name).into(t, &s)
		return s
	}
	for i, customer := range []string{"cus_1", "cus_bad", "cus_2"} {
		if a := n.deliver(t, "stripe.charge.succeeded", ingress.Facts{ID: fmt.Sprint("evt_", i), Customer: customer, Charge: fmt.Sprint("ch_", i), Amount: 100}); a.status != 202 {
			t.Fatalf("a delivery: %s", a)
		}
		n.wantBalance(t, customer, "", 100)
	}
	halted := func() bool { return status("picky").State == "halted" }
	eventstoretest.Until(t, "picky halts", halted)
	list := run("projections")
	for _, want := range []string{"balances", "streams", "deliveries", "parked", "live", "halted at stripe.charge.succeeded", "stripe/cus_bad", "no \ufffd[31mway…"} {
		if !strings.Contains(list.stdout, want) {
			t.Errorf("the list doesn't say %q:\n%s", want, list.stdout)
		}
	}
	if strings.Contains(list.stdout, "\x1b") {
		t.Errorf("what others wrote steers the terminal: %q", list.stdout)
	}
	if s := run("projections", "retry", "picky"); s.code != 0 {
		t.Errorf("retry: %+v", s)
	}
	eventstoretest.Until(t, "picky halts again", halted)
	if s := run("projections", "skip", "picky", "--by", "ann", "--reason", "a test"); s.code != 0 || !strings.HasPrefix(s.stdout, "picky is ") {
		t.Errorf("skip: %+v", s)
	}
	eventstoretest.Until(t, "picky goes on without it", func() bool { s := status("picky"); return s.State == "live" && s.Lag == 0 })
	if s := status("picky").Skips; len(s) != 1 || s[0].By != "ann" || s[0].Reason != "a test" || s[0].Stream != "stripe/cus_bad" {
		t.Errorf("%+v", s)
	}
	if s := run("projections"); !strings.Contains(s.stdout, "1 records skipped") {
		t.Errorf("%s", s.stdout)
	}

	// A rebuild tries the record again, and halts beside what serves.
	if s := run("rebuild", "balances", "picky"); s.code != 1 || !strings.Contains(s.stderr, "picky halted while it was built; the old generation serves") {
		t.Errorf("%+v", s)
	}
	if s := run("projections", "cancel", "picky"); s.code != 0 {
		t.Errorf("cancel: %+v", s)
	}
	eventstoretest.Until(t, "the build is gone", func() bool { s := status("picky"); return s.Build == nil && s.LastBuild == "canceled" })
	mended.Store(true)
	eventstoretest.Until(t, "balances is rebuilt", func() bool { s := status("balances"); return s.Build == nil && s.Generation == 2 })
	all := run("rebuild", "--all")
	for _, want := range []string{"balances             generation 3 serves, 3 rows", "generation 2 serves", "picky ", "deliveries "} {
		if !strings.Contains(all.stdout, want) {
			t.Errorf("rebuild --all doesn't say %q: %+v", want, all)
		}
	}
	if all.code != 0 || strings.Contains(all.stdout, "streams") || strings.Contains(all.stdout, "\x1b") {
		t.Errorf("rebuild --all: %+v", all)
	}
	if s := status("picky"); s.Rows == 0 || len(s.Skips) != 0 || s.Generation != 2 {
		t.Errorf("%+v", s)
	}
	if s := run("projections", "rollback", "balances"); s.code != 0 {
		t.Errorf("rollback: %+v", s)
	}
	eventstoretest.Until(t, "the one before serves again", func() bool { s := status("balances"); return s.Build == nil && s.Generation == 2 && s.Previous == 3 })
	n.wantBalance(t, "cus_bad", "", 100)

	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"rebuild"}, "name projections, or say --all"},
		{[]string{"rebuild", "balances", "--all"}, "name projections, or say --all"},
		{[]string{"rebuild", "nothing"}, `no projection "nothing" (not-found)`},
		{[]string{"rebuild", "streams"}, "(not-while-running)"},
		{[]string{"rebuild", "balances", "--rate", "-1"}, "rate"},
		{[]string{"projections", "retry", "balances"}, "(not-halted)"},
		{[]string{"projections", "skip", "../status"}, "(not-found)"},
		{[]string{"projections", "cancel", "balances"}, "(not-building)"},
		{[]string{"projections", "lost"}, `unknown command "lost"`},
	} {
		if s := run(c.args...); s.code != 1 || !strings.Contains(s.stderr, c.want) || s.stdout != "" {
			t.Errorf("%q: want %q in %+v", c.args, c.want, s)
		}
	}
	var page struct{ Items []projections.Status }
	if s := run("projections", "--json"); json.Unmarshal([]byte(s.stdout), &page) != nil || len(page.Items) < 5 {
		t.Errorf("%+v", s)
	}
}
