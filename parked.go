package penstock

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/penstock-io/penstock/api"
	"github.com/penstock-io/penstock/projections"
	"github.com/spf13/cobra"
)

// remote is a node that the command line talks to over HTTP.
type remote struct {
	url, token string // token is a reference
	raw        bool
	out        io.Writer
}

const (
	remotePatience = time.Minute // of one request; the longest waits 30 s for its outcome
	remoteAnswer   = 64 << 20    // bytes of one answer at most
)

// flags are those of every command that talks to a node.
func (r *remote) flags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&r.url, "url", "http://127.0.0.1:8080", "base URL of a node")
	f.StringVar(&r.token, "token", "", "reference to a bearer token, env:NAME or file:PATH")
	f.BoolVar(&r.raw, "json", false, "print the node's answers as they are")
}

// call sends body, if any, as JSON and reads the answer into v. With --json it prints the answer as it came. An answer
// other than 2xx is an error: the problem's detail and rule, in one line.
func (r *remote) call(ctx context.Context, method, path string, body, v any) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, remotePatience)
	defer cancel()
	resp, err := r.ask(ctx, method, path, "application/json", body)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, remoteAnswer+1))
	if err != nil {
		return 0, fmt.Errorf("read the answer of %s: %w", r.url, err)
	}
	if len(answer) > remoteAnswer {
		return 0, fmt.Errorf("the answer of %s is larger than %d bytes: ask for less with --limit", r.url, remoteAnswer)
	}
	if resp.StatusCode/100 != 2 {
		return resp.StatusCode, refusal(resp, answer)
	}
	if err := json.Unmarshal(answer, v); err != nil {
		return 0, fmt.Errorf("%s does not answer as a node does: %w", r.url, err)
	}
	if r.raw {
		_, err = fmt.Fprintf(r.out, "%s\n", bytes.TrimSpace(answer))
	}
	return resp.StatusCode, err
}

// ask sends a request, with body, if any, as JSON.
func (r *remote) ask(ctx context.Context, method, path, accept string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(r.url, "/")+path, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Prefer", "wait=30")
	}
	if r.token != "" {
		token, err := resolve(r.token)
		if err != nil {
			return nil, fmt.Errorf("--token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+string(token))
	}
	// Whoever redirects is not the node, and would get the token.
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return client.Do(req)
}

func refusal(resp *http.Response, answer []byte) error {
	var p api.Problem
	if json.Unmarshal(answer, &p) != nil || p.Type == "" {
		return fmt.Errorf("%s answered %s", resp.Request.URL.Redacted(), resp.Status)
	}
	return problemText(&p)
}

// problemText is a problem in one line: its detail, and the rule or else its kind.
func problemText(p *api.Problem) error {
	kind := strings.TrimPrefix(p.Type, "/problems/")
	return fmt.Errorf("%s (%s)", cell(cmp.Or(p.Detail, p.Title), 300), cell(cmp.Or(p.Rule, kind), 100))
}

// cell is the first line of a text that others wrote, fit for a terminal: at most width characters, all printable.
func cell(s string, width int) string {
	s, _, more := strings.Cut(s, "\n")
	text := []rune(printable(s))
	if more = more || len(text) > width; more {
		return string(text[:min(len(text), width-1)]) + "…"
	}
	return string(text)
}

// printable takes out what could steer a terminal, and leaves lines and tabs.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) || c == '\n' || c == '\t' {
			return c
		}
		return unicode.ReplacementChar
	}, s)
}

// operator is who releases when --by doesn't say it: the user and the machine.
func operator() string {
	name := os.Getenv("USER")
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
	}
	host, _ := os.Hostname() // without one the name alone says enough
	return strings.Trim(name+"@"+host, "@")
}

func parkedCommand() *cobra.Command {
	r := &remote{}
	cmd := &cobra.Command{
		Use: "parked", Short: "Show what could not be handled, and release it", Args: cobra.NoArgs,
		Long: "Show what could not be handled, and release it.\n\n" +
			"An entry that can't be handled is parked, and later entries of its stream are parked behind it, until somebody\n" +
			"has it handled again (requeue) or drops it (discard). See docs/operations.md.",
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { r.out = cmd.OutOrStdout(); return nil },
	}
	r.flags(cmd)
	cmd.AddCommand(parkedList(r), parkedShow(r), parkedRelease(r, "requeue", "Have an entry handled again"),
		parkedRelease(r, "discard", "Drop an entry: it takes no effect"), parkedRequeueStream(r))
	return cmd
}

func parkedList(r *remote) *cobra.Command {
	var state, stream string
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List what is parked", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
			if !r.raw {
				fmt.Fprintln(w, "ID\tPARKED\tTRIES\tSTATE\tSTREAM\tTYPE\tREASON")
			}
			q := url.Values{"state": {state}}
			if stream != "" {
				q.Set("stream", stream)
			}
			for left, pages := limit, true; left > 0 && pages; {
				q.Set("limit", strconv.Itoa(min(left, 1000)))
				var page struct {
					Items []projections.ParkedRow
					Next  string
				}
				if _, err := r.call(cmd.Context(), http.MethodGet, "/v1/parked?"+q.Encode(), nil, &page); err != nil {
					return err
				}
				for _, row := range page.Items {
					if r.raw {
						break
					}
					what := row.State
					if row.Outcome != "" {
						what += ": " + string(row.Outcome)
					}
					fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", cell(row.ID, 40), row.Parked.UTC().Format(time.DateTime), row.Tries, what,
						cell(string(row.Stream), 60), cell(row.Type, 60), cell(row.Reason, 80))
				}
				left -= len(page.Items)
				q.Set("cursor", page.Next)
				if pages = page.Next != ""; pages && left <= 0 && !r.raw {
					fmt.Fprintln(w, "… and more: raise --limit")
				}
			}
			return w.Flush()
		},
	}
	f := cmd.Flags()
	f.StringVar(&state, "state", "waiting", "waiting, requeued or discarded")
	f.StringVar(&stream, "stream", "", "only of this stream")
	f.IntVar(&limit, "limit", 100, "most entries to list")
	return cmd
}

// parkedEntry is the part of a shown entry beyond its row.
type parkedEntry struct {
	projections.ParkedRow
	Entry *struct {
		ContentType  string `json:"content_type"`
		Verification string
		Headers      map[string]string
		Size         int
		Body         json.RawMessage
		Base64       string `json:"body_base64"`
		Truncated    bool
	}
}

func parkedShow(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show an entry: why it was parked, and what it is", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var p parkedEntry
			if _, err := r.call(cmd.Context(), http.MethodGet, "/v1/parked/"+url.PathEscape(args[0]), nil, &p); err != nil || r.raw {
				return err
			}
			return p.print(r.out)
		},
	}
}

func (p *parkedEntry) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, cell(value, 1000))
		}
	}
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	line("id", p.ID)
	line("state", p.State)
	if p.Released != nil {
		line("released", at(*p.Released))
	}
	line("outcome", string(p.Outcome))
	line("by", p.By)
	line("note", p.Note)
	line(p.Kind, p.EntryID)
	line("source", p.Source)
	line("type", p.Type)
	line("stream", string(p.Stream))
	line("received", at(p.Received))
	line("parked", at(p.Parked))
	line("tries", strconv.Itoa(p.Tries))
	e := p.Entry
	if e != nil {
		line("content type", e.ContentType)
		line("verified", e.Verification)
		for _, name := range sortedKeys(e.Headers) {
			line("header "+cell(name, 100), e.Headers[name])
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nreason:\n%s\n", printable(strings.TrimSpace(p.Reason)))
	if e == nil {
		_, err := fmt.Fprintln(out, "\nThe entry itself has left the log: it can only be discarded.")
		return err
	}
	var body bytes.Buffer
	if e.Body != nil {
		if err := json.Indent(&body, e.Body, "", "  "); err != nil {
			return err
		}
	} else if b, err := base64.StdEncoding.DecodeString(e.Base64); err != nil {
		return fmt.Errorf("the body: %w", err)
	} else {
		body.Write(b)
	}
	fmt.Fprintf(out, "\nbody, %d bytes", e.Size)
	if e.Truncated {
		fmt.Fprint(out, ", of which this is the beginning")
	}
	_, err := fmt.Fprintf(out, ":\n%s\n", printable(body.String()))
	return err
}

// parkedReleased is what became of an entry.
type parkedReleased struct {
	ID, State, Outcome, Rule, Message string
	Stream                            string
	Version                           uint64
	Events                            []struct{}
	Problem                           *api.Problem
}

func (p parkedReleased) String() string {
	s := cell(p.ID, 40) + " " + cell(p.State, 40)
	switch {
	case p.Outcome == "accepted":
		s += fmt.Sprintf(": accepted, %d events, %s is at version %d", len(p.Events), cell(p.Stream, 600), p.Version)
	case p.Outcome != "":
		s += fmt.Sprintf(": %s by rule %s: %s", cell(p.Outcome, 40), cell(p.Rule, 100), cell(p.Message, 300))
	}
	return s
}

// reason is the body of a request to release.
type reason struct {
	Stream string `json:"stream,omitempty"`
	Note   string `json:"note"`
	By     string `json:"by"`
}

func (w *reason) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.By, "by", operator(), "who releases it")
	cmd.Flags().StringVar(&w.Note, "note", "", "why (required)")
	if err := cmd.MarkFlagRequired("note"); err != nil {
		panic(err) // the flag is defined one line above
	}
}

var errNotKnown = errors.New("it is in the log, but what came of it is not known yet; look with: penstock parked show")

func parkedRelease(r *remote, release, short string) *cobra.Command {
	var why reason
	cmd := &cobra.Command{
		Use: release + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var p parkedReleased
			status, err := r.call(cmd.Context(), http.MethodPost, "/v1/parked/"+url.PathEscape(args[0])+"/"+release, why, &p)
			if err != nil {
				return err
			}
			if status == http.StatusAccepted {
				return fmt.Errorf("%s: %w", args[0], errNotKnown)
			}
			if !r.raw {
				_, err = fmt.Fprintln(r.out, p)
			}
			return err
		},
	}
	why.flags(cmd)
	return cmd
}

func parkedRequeueStream(r *remote) *cobra.Command {
	var why reason
	cmd := &cobra.Command{
		Use: "requeue-stream STREAM", Short: "Have everything that a stream has parked handled again, in order", Args: cobra.ExactArgs(1),
		Long: "Have everything that a stream has parked handled again, in order. It stops at the first entry that can't be\nreleased; what went before it stays released.",
		RunE: func(cmd *cobra.Command, args []string) error {
			why.Stream = args[0]
			for total := 0; ; {
				var page struct {
					Items []parkedReleased
					More  bool
				}
				if _, err := r.call(cmd.Context(), http.MethodPost, "/v1/parked/requeue", why, &page); err != nil {
					return err
				}
				for _, p := range page.Items {
					switch {
					case p.Problem != nil:
						return fmt.Errorf("%s stays parked: %w", cell(p.ID, 40), problemText(p.Problem))
					case p.State == "unknown":
						return fmt.Errorf("%s: %w", cell(p.ID, 40), errNotKnown)
					case !r.raw:
						fmt.Fprintln(r.out, p)
					}
					total++
				}
				if !page.More || len(page.Items) == 0 {
					if !r.raw {
						fmt.Fprintf(r.out, "%d released\n", total)
					}
					return nil
				}
			}
		},
	}
	why.flags(cmd)
	return cmd
}
