package penstock

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/penstock-io/penstock/ingress"
	"github.com/spf13/cobra"
)

func sourcesCommand() *cobra.Command {
	r := &remote{}
	cmd := &cobra.Command{
		Use: "sources", Short: "List the sources of webhooks, why they refuse, and what providers there are", Args: cobra.NoArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { r.out = cmd.OutOrStdout(); return nil },
		RunE:              func(cmd *cobra.Command, _ []string) error { return sourcesList(cmd, r) },
	}
	f := cmd.PersistentFlags()
	f.StringVar(&r.url, "url", "http://127.0.0.1:8080", "base URL of a node")
	f.StringVar(&r.token, "token", "", "reference to a bearer token, env:NAME or file:PATH")
	f.BoolVar(&r.raw, "json", false, "print the answers as they are")
	cmd.AddCommand(sourcesProviders(r), sourcesArm(r), sourcesRefusals(r), sourcesReload(r))
	return cmd
}

func sourcesList(cmd *cobra.Command, r *remote) error {
	var page struct{ Items []ingress.SourceStatus }
	if _, err := r.call(cmd.Context(), http.MethodGet, "/v1/sources", nil, &page); err != nil || r.raw {
		return err
	}
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tPROVIDER\tURL\tVERIFIED BY\tSECRETS\tREFUSED\tDROPPED")
	for _, s := range page.Items {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\n", cell(s.Name, 64), cell(s.Provider, 64), cell(s.URL, 100), cell(s.Verification, 100),
			s.Secrets, s.Refused, s.Dropped)
	}
	return w.Flush()
}

// providerRow is a provider as it is listed.
type providerRow struct {
	Name         string                  `json:"name"`
	Title        string                  `json:"title"`
	Binding      string                  `json:"binding"`
	Verification string                  `json:"verification"`
	Secret       string                  `json:"secret"`
	Tolerance    float64                 `json:"tolerance_seconds,omitempty"`
	PublicURL    bool                    `json:"needs_public_url"`
	Handshakes   []ingress.HandshakeKind `json:"handshakes,omitempty"`
	ContentTypes []string                `json:"content_types"`
	MaxBody      int64                   `json:"max_body"`
	Budget       float64                 `json:"budget_seconds,omitempty"`
	Retry        string                  `json:"retry,omitempty"`
	Batches      bool                    `json:"batches"`
	Samples      []string                `json:"samples"`
	Confidence   string                  `json:"confidence"`
	Note         string                  `json:"note,omitempty"`
	Docs         string                  `json:"docs"`
}

func rowOf(p ingress.Provider) providerRow {
	return providerRow{
		Name: p.Name, Title: p.Title, Binding: string(p.Binding), Verification: p.Verification, Secret: p.Secret,
		Tolerance: p.Scheme.Tolerance.Seconds(), PublicURL: p.NeedsURL(), Handshakes: ingress.HandshakesOf(p.Name), ContentTypes: p.ContentTypes,
		MaxBody: p.MaxBody, Budget: p.Budget.Seconds(), Retry: p.Retry, Batches: p.Split != nil, Samples: ingress.SampleTypes(p.Name),
		Confidence: string(p.Confidence), Note: p.Note, Docs: p.Docs,
	}
}

func sourcesProviders(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "providers [NAME]", Short: "List the providers whose webhooks can be taken, or all that is known of one", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rows := []providerRow{}
			for _, p := range ingress.Providers {
				if len(args) == 0 || args[0] == p.Name {
					rows = append(rows, rowOf(p))
				}
			}
			switch {
			case len(rows) == 0:
				return fmt.Errorf("there is no provider %q; see penstock sources providers", args[0])
			case r.raw:
				return printJSON(r.out, rows)
			case len(args) == 1:
				return rows[0].print(r.out)
			}
			w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tBINDING\tTOLERANCE\tHANDSHAKE\tSECRET\tDOCS")
			for _, p := range rows {
				var shakes []string
				for _, k := range p.Handshakes {
					shakes = append(shakes, k.Name)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, p.Binding, p.tolerance(), cmp.Or(strings.Join(shakes, ", "), "-"), p.Secret, p.Docs)
			}
			return w.Flush()
		},
	}
}

func (p providerRow) tolerance() string {
	if p.Tolerance == 0 {
		return "-"
	}
	return time.Duration(p.Tolerance * float64(time.Second)).String()
}

func (p providerRow) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, line := range [][2]string{
		{"name", p.Name}, {"title", p.Title}, {"verified by", p.Verification}, {"binding", p.Binding}, {"tolerance", p.tolerance()},
		{"secret", p.Secret}, {"content types", strings.Join(p.ContentTypes, ", ")}, {"max body", fmt.Sprintf("%d bytes", p.MaxBody)},
		{"retries", p.Retry}, {"note", p.Note}, {"samples", strings.Join(p.Samples, ", ")}, {"confidence", p.Confidence}, {"docs", p.Docs},
	} {
		if line[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
		}
	}
	if p.PublicURL {
		fmt.Fprintln(w, "needs\tpublic_url: it signs the address that it calls")
	}
	for _, k := range p.Handshakes {
		fmt.Fprintf(w, "handshake\t%s; proof: %s; %s\n", k.Name, k.Proof, k.Docs)
	}
	return w.Flush()
}

func printJSON(out io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", b)
	return err
}

func sourcesArm(r *remote) *cobra.Command {
	var wait time.Duration
	var nodes []string
	cmd := &cobra.Command{
		Use: "arm NAME", Short: "Have a source wait for its provider's handshake", Args: cobra.ExactArgs(1),
		Long: "Have a source wait for its provider's handshake: the challenge by which the provider finds out whether the URL is\n" +
			"meant to get its webhooks. Arm it, and register the URL with the provider then. See docs/handshakes.md.\n\n" +
			"A node is armed for itself. Behind a load balancer, name every node with --url.",
		Example: "  penstock sources arm zoom --for 5m",
		RunE: func(cmd *cobra.Command, args []string) error {
			if wait < 0 || wait%time.Second != 0 {
				return errors.New("--for is in whole seconds; 0s disarms")
			}
			for _, node := range nodes {
				at := *r
				at.url = node
				var state struct {
					Provider string
					Armed    bool
					Until    time.Time
				}
				body := map[string]int{"seconds": int(wait / time.Second)}
				if _, err := at.call(cmd.Context(), http.MethodPost, "/v1/sources/"+url.PathEscape(args[0])+"/handshake", body, &state); err != nil {
					return fmt.Errorf("%s: %w", node, err)
				}
				switch {
				case r.raw:
				case state.Armed:
					fmt.Fprintf(r.out, "%s waits for the handshake of %s until %s\n", args[0], cell(state.Provider, 64), state.Until.Local().Format(time.DateTime))
				default:
					fmt.Fprintf(r.out, "%s is disarmed\n", args[0])
				}
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&wait, "for", ingress.DefaultArmed, "how long to wait; 0s disarms")
	cmd.Flags().StringSliceVar(&nodes, "url", []string{"http://127.0.0.1:8080"}, "base URL of a node; several are all armed")
	return cmd
}

func sourcesRefusals(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "refusals NAME", Short: "Show why a source has refused requests lately", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var page struct {
				Items  []ingress.Refusal
				Counts []ingress.RefusalCount
			}
			if _, err := r.call(cmd.Context(), http.MethodGet, "/v1/sources/"+url.PathEscape(args[0])+"/refusals", nil, &page); err != nil || r.raw {
				return err
			}
			w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "TIME\tFROM\tSTATUS\tREASON\tWHY")
			for _, f := range page.Items {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", f.Time.UTC().Format(time.DateTime), cell(f.Remote, 45), f.Status, cell(f.Reason, 40),
					cell(cmp.Or(f.Hint, f.Detail), 200))
			}
			if err := w.Flush(); err != nil {
				return err
			}
			for _, c := range page.Counts {
				fmt.Fprintf(r.out, "%d × %s (%d), last at %s\n", c.Count, cell(cmp.Or(c.Rule, c.Reason), 80), c.Status, c.Last.UTC().Format(time.DateTime))
			}
			return nil
		},
	}
}

func sourcesReload(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "reload", Short: "Have a node read its configuration file again, as SIGHUP does", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var done struct {
				Sources int
				Restart []string
			}
			if _, err := r.call(cmd.Context(), http.MethodPost, "/v1/sources/reload", nil, &done); err != nil || r.raw {
				return err
			}
			fmt.Fprintf(r.out, "%d sources are in force\n", done.Sources)
			if len(done.Restart) > 0 {
				fmt.Fprintf(r.out, "changed too, and waiting for a restart: %s\n", cell(strings.Join(done.Restart, ", "), 300))
			}
			return nil
		},
	}
}
