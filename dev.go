package penstock

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/penstock-io/penstock/ingress"
	"github.com/spf13/cobra"
)

func devCommand(app App) *cobra.Command {
	cfg := DevelopmentConfig()
	var demo bool
	cmd := &cobra.Command{
		Use: "dev", Short: "Run everything on this machine: embedded broker, example sources, well-known secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger := newLogger(cmd.ErrOrStderr(), slog.LevelWarn)
			node, err := NewNode(cfg, app, logger)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			done := make(chan struct{})
			go func() {
				defer close(done)
				select {
				case <-node.Started():
				case <-ctx.Done():
					return
				}
				welcome(cmd.OutOrStdout(), node, cfg)
				if demo {
					sendDemo(ctx, node.URL(), cmd.OutOrStdout())
				}
			}()
			err = node.Run(ctx)
			cancel()
			<-done
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Listen, "listen", cfg.Listen, "HTTP address; port 0 picks a free one")
	f.StringVar(&cfg.Kafka.Embedded, "kafka-listen", cfg.Kafka.Embedded, "address of the embedded Kafka broker; port 0 picks a free one")
	f.StringVar(&cfg.Data, "data", cfg.Data, "folder of everything that is kept")
	f.BoolVar(&demo, "demo", false, "send signed sample traffic for the example business, a few deliveries a second")
	return cmd
}

// welcome prints where everything is and what to try.
func welcome(w io.Writer, n *Node, cfg Config) {
	fmt.Fprintf(w, `
Penstock runs on this machine, with its own Kafka broker. Everything is kept in %s.

  live page    %[2]s/
  API          %[2]s/docs   (%[2]s/openapi.json)
  status       %[2]s/v1/status
  Kafka        %[3]s   topics %[4]s.inbox, .events, .outcomes, .parked

Sources, to be signed with these development secrets:
`, cfg.Data, n.URL(), strings.Join(n.Brokers(), ","), cfg.Kafka.Prefix)
	for _, name := range sortedKeys(cfg.Sources) {
		fmt.Fprintf(w, "  %-9s %s/hooks/%s   %s\n", name, n.URL(), name, strings.Join(cfg.Sources[name].literal, " "))
	}
	fmt.Fprintf(w, `
Try, in another terminal:
  follow   curl -N -H 'Accept: text/event-stream' %[1]s/v1/events
  send     %[2]s send stripe.charge.succeeded --url %[1]s --customer cus_9 --amount 4200
  query    curl -s %[1]s/v1/projections/balances/rows/cus_9
           curl -s '%[1]s/v1/projections/stripe-revenue/rows?index=currency,day&eq=eur&order=desc'

Ctrl-C stops it; what was acknowledged is there at the next start.
`, n.URL(), self())
}

// self is how to call this program again from the same folder.
func self() string {
	if strings.Contains(os.Args[0], "go-build") { // go run builds into a temporary folder
		return "go run ./cmd/penstock"
	}
	return os.Args[0]
}

// sendDemo plays a few customers of the example business until ctx ends.
func sendDemo(ctx context.Context, url string, w io.Writer) {
	fmt.Fprintln(w, "\nDemo traffic: about four deliveries a second.")
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for i := int64(1); ; i++ {
		kind, facts := demoDelivery(i)
		if err := deliver(ctx, url, kind, "", developmentSecret(kind), facts); err != nil && ctx.Err() == nil {
			fmt.Fprintln(w, "demo:", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// demoDelivery is the i-th delivery: mostly charges, some of which are refunded or disputed later.
func demoDelivery(i int64) (kind string, f ingress.Facts) {
	// The charges of one run must not be those of an earlier one.
	charge := func(i int64) string { return fmt.Sprintf("ch_demo_%d_%d", os.Getpid(), i) }
	customer := func(i int64) string { return fmt.Sprintf("cus_%d", i%7+1) }
	amount := func(i int64) int64 { return 1000 + i*37%9000 }
	switch i % 8 {
	case 3:
		return "github.pull_request.opened", ingress.Facts{Number: 100 + i%20, Repository: "octo/hello"}
	case 5:
		return "slack.message", ingress.Facts{Text: fmt.Sprintf("deploy %d is out", i)}
	case 6:
		j := i - 6 + 1 // a charge of this round
		return "stripe.charge.refunded", ingress.Facts{Customer: customer(j), Charge: charge(j), Amount: amount(j), Refunded: 1 + rand.Int64N(amount(j)), Currency: "eur"}
	case 7:
		j := i - 7 + 2
		if i%5 == 0 {
			return "stripe.charge.dispute.created", ingress.Facts{Customer: customer(j), Charge: charge(j), Amount: amount(j), Currency: "eur", Dispute: fmt.Sprintf("dp_demo_%d", i)}
		}
	}
	return "stripe.charge.succeeded", ingress.Facts{Customer: customer(i), Charge: charge(i), Amount: amount(i), Currency: "eur"}
}

func developmentSecret(kind string) string {
	if strings.HasPrefix(kind, "standard.") {
		return DevelopmentWhsec
	}
	return DevelopmentSecret
}

// deliver sends one signed sample to a source, by default the one called like the provider.
func deliver(ctx context.Context, url, kind, source, secret string, f ingress.Facts) error {
	d, err := ingress.Sample(kind, f)
	if err != nil {
		return err
	}
	if source == "" {
		source = d.Provider.Name
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := d.Request(ctx, url, source, ingress.Secret(secret), time.Now())
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered %s: %s", req.URL, resp.Status, body)
	}
	return nil
}
