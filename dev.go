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

func sendCommand() *cobra.Command {
	var url, source, secret string
	var f ingress.Facts
	cmd := &cobra.Command{
		Use: "send TYPE", Short: "Send a correctly signed sample delivery", Args: cobra.ExactArgs(1),
		Long:    "Send a correctly signed sample delivery. Types:\n  " + strings.Join(sampleTypes(), "\n  "),
		Example: "  penstock send stripe.charge.succeeded --customer cus_9 --amount 4200",
		RunE: func(cmd *cobra.Command, args []string) error {
			key := developmentSecret(args[0])
			if secret != "" {
				b, err := resolve(secret)
				if err != nil {
					return fmt.Errorf("--secret: %w", err)
				}
				key = string(b)
			}
			if err := deliver(cmd.Context(), strings.TrimSuffix(url, "/"), args[0], source, key, f); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "accepted:", args[0])
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&url, "url", "http://127.0.0.1:8080", "base URL of the node")
	fl.StringVar(&source, "source", "", "source to send to; by default the one called like the provider")
	fl.StringVar(&secret, "secret", "", "reference to the secret, env:NAME or file:PATH; by default the development secret")
	fl.StringVar(&f.ID, "id", "", "delivery id; by default a random one")
	fl.StringVar(&f.Customer, "customer", "", "Stripe: customer")
	fl.StringVar(&f.Charge, "charge", "", "Stripe: charge")
	fl.Int64Var(&f.Amount, "amount", 0, "Stripe: amount in the currency's minor unit")
	fl.Int64Var(&f.Refunded, "refunded", 0, "Stripe: refunded in total so far")
	fl.StringVar(&f.Currency, "currency", "", "Stripe: currency")
	fl.StringVar(&f.Repository, "repository", "", "GitHub: repository, owner/name")
	fl.Int64Var(&f.Number, "number", 0, "GitHub: number of the issue or pull request")
	fl.StringVar(&f.Channel, "channel", "", "Slack: channel")
	fl.StringVar(&f.Text, "text", "", "Slack: text")
	return cmd
}

func sampleTypes() (all []string) {
	for _, p := range ingress.Providers {
		all = append(all, ingress.SampleTypes(p.Name)...)
	}
	return all
}
