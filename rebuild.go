package penstock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/penstock-io/penstock/projections"
	"github.com/spf13/cobra"
)

func projectionsCommand() *cobra.Command {
	r := &remote{}
	cmd := &cobra.Command{
		Use: "projections", Short: "Show how the read models are doing, and act on one", Args: cobra.NoArgs,
		Long: "Show how the read models of a node are doing, and act on one.\n\n" +
			"A projection that can't apply a record halts there, alone. Mend it and retry, or skip the record. See docs/projections.md.",
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { r.out = cmd.OutOrStdout(); return nil },
		RunE:              func(cmd *cobra.Command, _ []string) error { return r.listProjections(cmd.Context()) },
	}
	r.flags(cmd)
	act := func(name, short, method, path string) *cobra.Command {
		return &cobra.Command{
			Use: name + " NAME", Short: short, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return r.act(cmd.Context(), method, args[0], path, nil) },
		}
	}
	var by, reason string
	skip := &cobra.Command{
		Use: "skip NAME", Short: "Have a halted projection go on without the record that it halted at", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.act(cmd.Context(), http.MethodPost, args[0], "skip", map[string]string{"by": by, "reason": reason})
		},
	}
	skip.Flags().StringVar(&by, "by", operator(), "who; kept in the projection's status")
	skip.Flags().StringVar(&reason, "reason", "", "why; kept too")
	cmd.AddCommand(
		act("retry", "Have a halted projection try again", http.MethodPost, "retry"), skip,
		act("rollback", "Have the generation serve again that served before", http.MethodPost, "rollback"),
		act("cancel", "Cancel what is being built", http.MethodDelete, "build"),
	)
	return cmd
}

func (r *remote) listProjections(ctx context.Context) error {
	var list struct{ Items []projections.Status }
	if _, err := r.call(ctx, http.MethodGet, "/v1/projections", nil, &list); err != nil || r.raw {
		return err
	}
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tGENERATION\tROWS\tLAG\tFILE\tNOTE")
	for _, s := range list.Items {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%.1f MB\t%s\n", s.Name, s.State, s.Generation, s.Rows, s.Lag, float64(s.FileBytes)/1e6, cell(note(s), 200))
	}
	return w.Flush()
}

// note is what else there is to say of a projection.
func note(s projections.Status) string {
	var notes []string
	if h := s.Halted; h != nil {
		notes = append(notes, halted(h))
	}
	if b := s.Build; b != nil {
		notes = append(notes, fmt.Sprintf("generation %d: %s", b.Generation, progress(b)))
	}
	if n := len(s.Skips); n > 0 {
		notes = append(notes, fmt.Sprintf("%d records skipped", n))
	}
	if n := len(s.Quarantined); n > 0 {
		notes = append(notes, fmt.Sprintf("%d damaged files put aside", n))
	}
	if s.LastBuild != "" {
		notes = append(notes, "last build: "+s.LastBuild)
	}
	return strings.Join(notes, "; ")
}

func halted(h *projections.Halt) string {
	if h.ID == "" {
		return "halted: " + h.Error
	}
	return fmt.Sprintf("halted at %s %s of %s (%d/%d): %s", h.Type, h.ID, h.Stream, h.Partition, h.Offset, h.Error)
}

func progress(b *projections.BuildStatus) string {
	if b.Halted != nil {
		return halted(b.Halted)
	}
	done := 100.0
	if b.Total > 0 {
		done = 100 * float64(b.Done) / float64(b.Total)
	}
	text := fmt.Sprintf("%s %.1f %%, %.0f/s", b.State, done, b.Rate)
	if b.ETA != nil {
		text += ", " + (time.Duration(*b.ETA) * time.Second).String() + " left"
	}
	return text
}

// act asks for something and says how the projection is then.
func (r *remote) act(ctx context.Context, method, name, what string, body any) error {
	var s projections.Status
	if _, err := r.call(ctx, method, "/v1/projections/"+url.PathEscape(name)+"/"+what, body, &s); err != nil || r.raw {
		return err
	}
	_, err := fmt.Fprintf(r.out, "%s is %s; generation %d serves; %s\n", cell(s.Name, 100), s.State, s.Generation, cell(note(s), 300))
	return err
}

func rebuildCommand() *cobra.Command {
	r := &remote{}
	var all, wait bool
	var rate int
	cmd := &cobra.Command{
		Use: "rebuild [NAME …]", Short: "Build read models anew from the beginning of the log",
		Long: "Build read models anew from the beginning of the log, all of them in one scan.\n\n" +
			"Readers see the old generation until the new one has everything. See docs/projections.md.",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("name projections, or say --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, names []string) error {
			r.out = cmd.OutOrStdout()
			ctx := cmd.Context()
			if all {
				var err error
				if names, err = r.rebuildable(ctx); err != nil {
					return err
				}
			}
			var list struct{ Items []projections.Status }
			if _, err := r.call(ctx, http.MethodPost, "/v1/rebuilds", map[string]any{"projections": names, "rate": rate}, &list); err != nil {
				return err
			}
			if !wait || r.raw {
				return nil
			}
			return r.watchBuilds(ctx, names)
		},
	}
	r.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&all, "all", false, "every projection but streams, which the writers need")
	f.IntVar(&rate, "rate", 0, "records a second at most")
	f.BoolVar(&wait, "wait", true, "show the progress until it is done")
	return cmd
}

// rebuildable are the names of all projections that can be built anew while the node runs.
func (r *remote) rebuildable(ctx context.Context) (names []string, err error) {
	var list struct{ Items []projections.Status }
	quiet := *r
	quiet.raw = false
	_, err = quiet.call(ctx, http.MethodGet, "/v1/projections", nil, &list)
	for _, s := range list.Items {
		if s.Name != "streams" {
			names = append(names, s.Name)
		}
	}
	return names, err
}

// watchBuilds shows a bar for each projection until none is built any more. Where the output is no terminal it is a line for
// each that has changed, every few seconds.
func (r *remote) watchBuilds(ctx context.Context, names []string) error {
	terminal := isTerminal(r.out)
	said := map[string]bool{}
	for drawn, every := 0, 200*time.Millisecond; ; {
		left, failed := 0, error(nil)
		var lines []string
		for _, name := range names {
			var s projections.Status
			if _, err := r.call(ctx, http.MethodGet, "/v1/projections/"+url.PathEscape(name), nil, &s); err != nil {
				return err
			}
			switch {
			case s.Build != nil && s.Build.Halted != nil:
				lines = append(lines, fmt.Sprintf("%-20s %s", cell(name, 20), cell(halted(s.Build.Halted), 200)))
				failed = fmt.Errorf("%s halted while it was built; the old generation serves", name)
			case s.Build != nil:
				left++
				lines = append(lines, fmt.Sprintf("%-20s %s %s", cell(name, 20), bar(s.Build), progress(s.Build)))
			case s.LastBuild != "":
				lines = append(lines, fmt.Sprintf("%-20s %s", cell(name, 20), cell(s.LastBuild, 200)))
				failed = fmt.Errorf("%s was not rebuilt: %s", name, s.LastBuild)
			default:
				lines = append(lines, fmt.Sprintf("%-20s generation %d serves, %d rows", cell(name, 20), s.Generation, s.Rows))
			}
		}
		if terminal && drawn > 0 {
			fmt.Fprintf(r.out, "\x1b[%dA", drawn)
		}
		for _, line := range lines {
			switch {
			case terminal:
				line += "\x1b[K"
			case said[line]:
				continue
			}
			said[line] = !terminal
			fmt.Fprintln(r.out, line)
		}
		drawn = len(lines)
		if left == 0 || failed != nil {
			return failed
		}
		if !terminal {
			every = 2 * time.Second
		}
		if err := pauseFor(ctx, every); err != nil {
			return err
		}
	}
}

func bar(b *projections.BuildStatus) string {
	const width = 30
	full := width
	if b.Total > 0 {
		full = int(width * b.Done / b.Total)
	}
	return "[" + strings.Repeat("=", full) + strings.Repeat(" ", width-full) + "]"
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
