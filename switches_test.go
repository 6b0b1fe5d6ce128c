package penstock_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/ingress"
)

// TestSwitches has the validator follow a node under load over connections that break, with so little memory that it is
// behind again and again: what is old comes from Kafka, what is new from memory, and the switch between the two is what is
// tested. PENSTOCK_SWITCHES says how often.
func TestSwitches(t *testing.T) {
	switches := 150
	if s := os.Getenv("PENSTOCK_SWITCHES"); s != "" {
		var err error
		if switches, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(t.TempDir(), "validate")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./bench/validate").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cfg := nodeConfig(t)
	cfg.Feeds.Memory = 64 << 10
	n := startNode(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	defer load.Wait()
	defer cancel()
	for worker := range 3 {
		load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("%d-%d", worker, i)
				n.deliver(t, "stripe.charge.succeeded", ingress.Facts{ID: id, Customer: fmt.Sprintf("cus_%d", i%7), Charge: "ch_" + id})
				if i%20 == 19 {
					select { // now and then the feed catches up
					case <-ctx.Done():
					case <-time.After(time.Duration(i%5) * 20 * time.Millisecond):
					}
				}
			}
		})
	}
	out, err := exec.CommandContext(t.Context(), binary, "-from", "earliest", "-switches", strconv.Itoa(switches), n.URL()).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}
