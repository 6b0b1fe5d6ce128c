package penstock_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
	"github.com/penstock-io/penstock/projections"
)

// TestRowsEqualThoseOfAnotherLanguage has a program that shares nothing with this one read the events and compute the read
// models; the rows must be equal.
func TestRowsEqualThoseOfAnotherLanguage(t *testing.T) {
	python, err := exec.CommandContext(t.Context(), "deploy/kafka/kafka", "python").Output()
	if err != nil {
		why, _ := errors.AsType[*exec.ExitError](err)
		if why == nil || why.ExitCode() != 3 || os.Getenv("CI") == "true" {
			t.Fatalf("kafka python: %v: %s", err, stderrOf(why))
		}
		t.Skipf("no client of another language: %s", bytes.TrimSpace(why.Stderr))
	}
	cfg := nodeConfig(t)
	n := startNode(t, cfg)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 4))
	for i := range 150 {
		customer, charge := fmt.Sprint("cus_", r.IntN(5)), fmt.Sprint("ch_", r.IntN(40))
		f := ingress.Facts{ID: fmt.Sprint("evt_", i), Customer: customer, Charge: charge, Amount: int64(100 + r.IntN(5000)), Currency: []string{"eur", "usd", "jpy"}[r.IntN(3)]}
		kind := "stripe.charge.succeeded"
		switch r.IntN(10) {
		case 0:
			kind, f.Refunded = "stripe.charge.refunded", f.Amount/2
		case 1:
			kind, f.Dispute = "stripe.charge.dispute.created", fmt.Sprint("dp_", r.IntN(9))
		case 2:
			kind, f.Dispute, f.Lost = "stripe.charge.dispute.closed", fmt.Sprint("dp_", r.IntN(9)), r.IntN(2) == 0
		case 3:
			f.Authorized = true
		case 4:
			kind = "stripe.charge.captured"
		case 5: // refused ones are a part of it: what they leave behind is nothing
			command := [][2]string{
				{"GrantCredit", fmt.Sprintf(`{"customer":%q,"amount":%d,"currency":"eur"}`, customer, f.Amount)},
				{"RequestRefund", fmt.Sprintf(`{"customer":%q,"charge":%q,"amount":10,"currency":%q}`, customer, charge, f.Currency)},
				{"SuspendAccount", fmt.Sprintf(`{"customer":%q}`, customer)},
				{"ReopenAccount", fmt.Sprintf(`{"customer":%q}`, customer)},
			}[r.IntN(4)]
			if a := n.command(t, command[0], command[1]); a.status >= 500 {
				t.Fatalf("%s: %s", command[0], a)
			}
			continue
		}
		for range 1 + r.IntN(2) { // providers send again
			if a := n.deliver(t, kind, f); a.status != 202 {
				t.Fatalf("%s: %s", kind, a)
			}
		}
	}
	// Everything has taken effect: what was taken in last, and the commands that came of it, add nothing any more.
	settled, since := "", time.Now()
	eventstoretest.Until(t, "the log stands still", func() bool {
		if now := n.ends(t); now != settled {
			settled, since = now, time.Now()
		}
		return time.Since(since) > time.Second
	})
	theirs := oracle(t, string(bytes.TrimSpace(python)), n, cfg.Kafka.Prefix+".events")
	for name, want := range theirs {
		var s projections.Status
		if a := n.get(t, "/v1/projections/"+name); a.status == 404 && name != "balances" {
			t.Logf("%s is not among the read models of this configuration", name)
			continue
		}
		eventstoretest.Until(t, name+" has applied everything", func() bool {
			n.get(t, "/v1/projections/"+name).into(t, &s)
			return s.State == "live" && s.Lag == 0
		})
		var page struct {
			Items []struct {
				Key string
				Row map[string]any
			}
		}
		n.get(t, "/v1/projections/"+name+"/rows?limit=1000").into(t, &page)
		if len(page.Items) != len(want) || len(want) == 0 {
			t.Errorf("%s has %d rows, the oracle %d", name, len(page.Items), len(want))
		}
		for _, item := range page.Items {
			row := want[item.Key]
			if name != "balances" { // whatever else the row has beside what the oracle knows
				for field := range item.Row {
					if _, known := row[field]; !known {
						delete(item.Row, field)
					}
				}
			}
			if !reflect.DeepEqual(item.Row, row) {
				t.Errorf("%s[%s] is %v, and to the oracle %v", name, item.Key, item.Row, row)
			}
		}
	}
}

// oracle runs projections/testdata/oracle, and gives rows by projection and key.
func oracle(t *testing.T, python string, n *node, topic string) (rows map[string]map[string]map[string]any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, python, "projections/testdata/oracle/oracle.py", strings.Join(n.Brokers(), ","), topic).Output()
	if err != nil {
		why, _ := errors.AsType[*exec.ExitError](err)
		t.Fatalf("oracle.py: %v: %s", err, stderrOf(why))
	}
	if err := json.Unmarshal(out, &rows); err != nil {
		t.Fatal(err)
	}
	return rows
}
