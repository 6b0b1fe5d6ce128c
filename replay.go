package penstock

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/replays"
	"github.com/spf13/cobra"
)

func replayCommand() *cobra.Command {
	r := &remote{}
	cmd := &cobra.Command{
		Use: "replay", Short: "Have deliveries handled once more", Args: cobra.NoArgs,
		Long: "Have deliveries handled once more.\n\n" +
			"Each is put into the inbox again, under an identity of its own, and the events and commands that follow are new\n" +
			"ones. See docs/deliveries.md.",
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { r.out = cmd.OutOrStdout(); return nil },
	}
	r.flags(cmd)
	cmd.AddCommand(replayOne(r), replayMany(r), replayList(r),
		replayChange(r, "show", "Show a replay and how far it is", http.MethodGet, ""),
		replayChange(r, "cancel", "End a replay for good; what was replayed stays replayed", http.MethodPost, "/cancel"),
		replayFollow(r, "start", "Start a plan, or go on with an interrupted replay, and watch it", http.MethodPost, "/start"),
		replayFollow(r, "watch", "Watch a replay until it ends", http.MethodGet, ""))
	return cmd
}

// replayReason says who replays and why.
type replayReason struct {
	Reason string `json:"reason"`
	By     string `json:"by"`
}

func (w *replayReason) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.By, "by", operator(), "who replays it")
	cmd.Flags().StringVar(&w.Reason, "reason", "", "why (required)")
	if err := cmd.MarkFlagRequired("reason"); err != nil {
		panic(err) // the flag is defined one line above
	}
}

func replayOne(r *remote) *cobra.Command {
	var why replayReason
	cmd := &cobra.Command{
		Use: "one SOURCE ID", Short: "Replay one delivery, and say what became of it", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var p struct {
				ID, Stream, Status, Message string
				Version                     uint64
				Events                      []struct{}
				Commands                    []string
			}
			path := "/v1/deliveries/" + url.PathEscape(args[0]) + "/" + url.PathEscape(args[1]) + "/replay"
			status, err := r.call(cmd.Context(), http.MethodPost, path, why, &p)
			switch {
			case err != nil:
				return err
			case status == http.StatusAccepted:
				return fmt.Errorf("%s is in the log, but what came of it is not known yet", cell(p.ID, 300))
			case p.Status == string(domain.Parked):
				return fmt.Errorf("%s is parked: %s", cell(p.ID, 300), cell(p.Message, 300))
			case r.raw:
				return nil
			}
			_, err = fmt.Fprintf(r.out, "%s %s: %d events, %d commands, %s is at version %d\n", cell(p.ID, 300), cell(p.Status, 40), len(p.Events),
				len(p.Commands), cell(p.Stream, 600), p.Version)
			return err
		},
	}
	why.flags(cmd)
	return cmd
}

// replayPlan is a replay as a node tells of it.
type replayPlan struct {
	replays.Plan
	Left int `json:"left"`
	ETA  int `json:"eta_seconds"`
}

func (p replayPlan) String() string {
	s := fmt.Sprintf("%s %s: %d of %d replayed", cell(p.ID, 64), cell(string(p.State), 40), p.Replayed, p.Planned.Count)
	for _, part := range []struct {
		n    int
		what string
	}{{p.Expired, "expired"}, {p.Skipped, "parked meanwhile"}, {p.Failed, "failed"}} {
		if part.n > 0 {
			s += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	if p.ETA > 0 {
		s += fmt.Sprintf(", about %v to go", time.Duration(p.ETA)*time.Second)
	}
	if p.Error != "" {
		s += ": " + cell(p.Error, 300)
	}
	return s
}

func replayMany(r *remote) *cobra.Command {
	var ask struct {
		Filter replays.Filter `json:"filter"`
		DryRun bool           `json:"dry_run"`
		Rate   int            `json:"rate"`
		Most   int            `json:"max"`
		replayReason
	}
	var status, stream, since, until string
	var detach bool
	cmd := &cobra.Command{
		Use: "many", Short: "Replay all deliveries that pass a filter, and watch it", Args: cobra.NoArgs,
		Long: "Replay all deliveries that pass a filter, oldest first, and watch it. With --dry-run only say what it would replay;\n" +
			"start that plan with: penstock replay start ID. What is parked, and what is a replay itself, is left out.\n\n" +
			"An interrupt ends the watching, not the replay.",
		Example: "  penstock replay many --source stripe --type 'stripe.charge.*' --since 2h --dry-run --reason 'the shop was down'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask.Filter.Status, ask.Filter.Stream = domain.Status(status), domain.Stream(stream)
			for _, at := range []struct {
				flag, text string
				time       **time.Time
			}{{"since", since, &ask.Filter.Since}, {"until", until, &ask.Filter.Until}} {
				if at.text == "" {
					continue
				}
				t, err := moment(at.text, time.Now())
				if err != nil {
					return fmt.Errorf("--%s: %w", at.flag, err)
				}
				*at.time = &t
			}
			var p replayPlan
			if _, err := r.call(cmd.Context(), http.MethodPost, "/v1/replays", ask, &p); err != nil {
				return err
			}
			if !r.raw {
				fmt.Fprintf(r.out, "%s finds %d deliveries, %d bytes", cell(p.ID, 64), p.Planned.Count, p.Planned.Bytes)
				if p.Planned.First != nil && p.Planned.Last != nil {
					fmt.Fprintf(r.out, ", from %s to %s", p.Planned.First.UTC().Format(time.RFC3339), p.Planned.Last.UTC().Format(time.RFC3339))
				}
				if p.Planned.Parked > 0 {
					fmt.Fprintf(r.out, "; %d parked ones are left out", p.Planned.Parked)
				}
				fmt.Fprintln(r.out)
			}
			if ask.DryRun || detach {
				return nil
			}
			return r.watch(cmd.Context(), p)
		},
	}
	f := cmd.Flags()
	f.StringVar(&ask.Filter.Source, "source", "", "only of this source")
	f.StringVar(&ask.Filter.Type, "type", "", "only of this type; * stands for any characters")
	f.StringVar(&status, "status", "", "only with this outcome: accepted or discarded")
	f.StringVar(&stream, "stream", "", "only of this stream")
	f.StringVar(&ask.Filter.ID, "id", "", "only with delivery ids that begin so")
	f.StringVar(&ask.Filter.Text, "text", "", "only with this text in the delivery id, stream or type")
	f.StringVar(&since, "since", "", "only received then or later: a time as 2026-01-31T12:00:00Z, or how long ago as 2h")
	f.StringVar(&until, "until", "", "only received before: the same")
	f.BoolVar(&ask.DryRun, "dry-run", false, "only say what would be replayed")
	f.IntVar(&ask.Rate, "rate", replays.DefaultRate, "deliveries per second at most")
	f.IntVar(&ask.Most, "max", replays.DefaultMost, "refuse to replay more than that")
	f.BoolVar(&detach, "detach", false, "don't watch it")
	ask.flags(cmd)
	return cmd
}

// moment reads a time, or how long before now it is.
func moment(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil {
		if ago < 0 {
			return time.Time{}, errors.New("a duration says how long ago, so it isn't negative")
		}
		return now.Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%q is neither a time like 2026-01-31T12:00:00Z nor a duration like 2h", text)
	}
	return t, nil
}

// watchEvery is how often a watched replay is asked about, watchPatience how often in a row it may not answer.
const (
	watchEvery    = time.Second
	watchPatience = 30
)

// watch says how far a replay is, whenever that has changed, until it ends. A node that is away for a moment is waited
// for: it may be restarting, and the replay is interrupted then.
func (r *remote) watch(ctx context.Context, p replayPlan) error {
	said := ""
	for failures := 0; ; {
		if s := p.String(); s != said && !r.raw {
			fmt.Fprintln(r.out, s)
			said = s
		}
		if p.Ended() {
			break
		}
		if p.State == replays.Planned {
			return fmt.Errorf("replay %s was not started: penstock replay start %s", cell(p.ID, 64), cell(p.ID, 64))
		}
		select {
		case <-time.After(watchEvery):
		case <-ctx.Done():
			return nil
		}
		var next replayPlan
		status, err := r.call(ctx, http.MethodGet, "/v1/replays/"+url.PathEscape(p.ID), nil, &next)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			p, failures = next, 0
		default:
			if failures++; failures == watchPatience || status/100 == 4 {
				return err
			}
		}
	}
	if p.State == replays.Interrupted {
		return fmt.Errorf("replay %s was interrupted; go on with: penstock replay start %s", cell(p.ID, 64), cell(p.ID, 64))
	}
	for _, f := range p.Failures {
		if !r.raw {
			fmt.Fprintf(r.out, "%s %s: %s\n", cell(f.Source, 64), cell(f.ID, 300), cell(f.Error, 300))
		}
	}
	return nil
}

func replayList(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the replays of a node, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var page struct{ Items []replayPlan }
			if _, err := r.call(cmd.Context(), http.MethodGet, "/v1/replays", nil, &page); err != nil || r.raw {
				return err
			}
			w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tCREATED\tSTATE\tREPLAYED\tOF\tBY\tREASON")
			for _, p := range page.Items {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\n", cell(p.ID, 64), p.Created.UTC().Format(time.DateTime), cell(string(p.State), 40), p.Replayed,
					p.Planned.Count, cell(p.By, 60), cell(p.Reason, 80))
			}
			return w.Flush()
		},
	}
}

// replayChange asks for one replay, or for a change of it, and shows it.
func replayChange(r *remote, name, short, method, action string) *cobra.Command {
	return &cobra.Command{
		Use: name + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var p replayPlan
			if _, err := r.call(cmd.Context(), method, "/v1/replays/"+url.PathEscape(args[0])+action, nil, &p); err != nil || r.raw {
				return err
			}
			return p.print(r)
		},
	}
}

func (p replayPlan) print(r *remote) error {
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, cell(value, 1000))
		}
	}
	at := func(name string, t *time.Time) {
		if t != nil {
			line(name, t.UTC().Format(time.RFC3339))
		}
	}
	line("replay", p.String())
	line("by", p.By)
	line("reason", p.Reason)
	line("source", p.Filter.Source)
	line("type", p.Filter.Type)
	line("status", string(p.Filter.Status))
	line("stream", string(p.Filter.Stream))
	line("id", p.Filter.ID)
	line("text", p.Filter.Text)
	at("since", p.Filter.Since)
	at("until", p.Filter.Until)
	line("rate", strconv.Itoa(p.Rate)+" per second")
	at("first", p.Planned.First)
	at("last", p.Planned.Last)
	at("created", &p.Created)
	at("started", p.Started)
	at("finished", p.Finished)
	for _, f := range p.Failures {
		line("failure", f.Source+" "+f.ID+": "+f.Error)
	}
	return w.Flush()
}

// replayFollow asks for one replay, or has it started, and watches it.
func replayFollow(r *remote, name, short, method, action string) *cobra.Command {
	return &cobra.Command{
		Use: name + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var p replayPlan
			if _, err := r.call(cmd.Context(), method, "/v1/replays/"+url.PathEscape(args[0])+action, nil, &p); err != nil {
				return err
			}
			return r.watch(cmd.Context(), p)
		},
	}
}
