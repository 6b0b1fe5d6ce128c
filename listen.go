package penstock

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// listener is the listen command: it follows the events of a node and shows each, or forwards it, and remembers how far
// it came.
type listener struct {
	remote
	sources, types, streams []string
	from, cursorFile        string
	forward                 *forwarder // nil to show events only

	out, say     io.Writer
	saved        string // cursor in the file
	savedAt      time.Time
	shown, given int // events handled, and those among them whose forward was given up
}

// heardEvent is what listen reads of an event.
type heardEvent struct {
	ID              string
	Type            string
	Source          string
	Subject         string
	Time            time.Time
	StreamVersion   uint64
	DataContentType string
	DeliveryID      string
	CorrelationID   string
	CausationID     string
	TraceParent     string
	Verification    string
	Data            json.RawMessage
	DataBase64      []byte `json:"data_base64"`

	raw []byte
}

func listenCommand() *cobra.Command {
	l := &listener{}
	var to, resign, provider, onFailure string
	var tries int
	cmd := &cobra.Command{
		Use: "listen", Short: "Follow the events in the terminal, or forward them to a program on this machine", Args: cobra.NoArgs,
		Long: "Follow the events in the terminal, or forward them to a program on this machine.\n\n" +
			"With --cursor-file it goes on where it was when it ended, whatever has come in since. A forward is the request\n" +
			"as the provider sent it, byte for byte; what no provider sent is a CloudEvent in binary mode.",
		Example: "  penstock listen --type 'stripe.*'\n" +
			"  penstock listen --source github --cursor-file ~/.penstock-cursor --forward http://localhost:3000/hook",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			l.out, l.say = cmd.OutOrStdout(), cmd.ErrOrStderr()
			if to != "" {
				if l.forward, err = newForwarder(&l.remote, to, resign, provider, onFailure, tries); err != nil {
					return err
				}
			} else if resign != "" || cmd.Flags().Changed("provider") {
				return errors.New("--resign and --provider say how to --forward")
			}
			return l.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&l.url, "url", "http://127.0.0.1:8080", "base URL of a node")
	f.StringVar(&l.token, "token", "", "reference to a bearer token, env:NAME or file:PATH")
	f.BoolVar(&l.raw, "json", false, "print events, or what became of forwards, as a line of JSON each")
	f.StringSliceVar(&l.sources, "source", nil, "only of these sources")
	f.StringSliceVar(&l.types, "type", nil, "only of these types; * stands for any characters")
	f.StringSliceVar(&l.streams, "stream", nil, "only of these streams; a * at the end makes it a beginning")
	f.StringVar(&l.from, "from", "latest", "where to begin: earliest, latest, a time or a cursor; a cursor file goes first")
	f.StringVar(&l.cursorFile, "cursor-file", "", "file that remembers how far it came")
	f.StringVar(&to, "forward", "", "URL to send each event to")
	f.StringVar(&resign, "resign", "", "reference to a secret to sign forwards with, in place of the provider's signature")
	f.StringVar(&provider, "provider", "standard", "whose scheme to sign with")
	f.IntVar(&tries, "tries", 8, "how often to try a forward, over about a minute")
	f.StringVar(&onFailure, "on-failure", "skip", "when all tries failed: skip the event, or stop")
	return cmd
}

// run follows until ctx ends, which is no failure.
func (l *listener) run(ctx context.Context) (err error) {
	feed, err := l.feed()
	if err != nil {
		return err
	}
	err = feed.follow(ctx, func(b feedBlock) error { return l.handle(ctx, b) })
	err = errors.Join(err, l.save(feed.cursor))
	switch {
	case ctx.Err() != nil && errors.Is(err, ctx.Err()), errors.Is(err, errFeedDone):
		err = nil
	}
	if l.forward != nil && l.given > 0 {
		fmt.Fprintf(l.say, "%d of %d events could not be forwarded\n", l.given, l.shown)
	}
	return err
}

// feed is the feed that the flags ask for.
func (l *listener) feed() (*feedClient, error) {
	q := url.Values{"type": l.types, "stream": l.streams}
	for _, s := range l.sources {
		if !strings.HasPrefix(s, "/") {
			s = "/sources/" + s
		}
		q.Add("source", s)
	}
	cursor, err := l.load()
	if err != nil {
		return nil, err
	}
	switch _, timeErr := time.Parse(time.RFC3339, l.from); {
	case cursor != "":
	case l.from == "earliest", l.from == "latest", strings.HasPrefix(l.from, "-"), timeErr == nil:
		q.Set("from", l.from)
	default:
		cursor = l.from
	}
	feed := &feedClient{
		url: strings.TrimSuffix(l.url, "/") + "/v1/events?" + q.Encode(), header: http.Header{}, cursor: cursor,
		// Whoever redirects is not the node, and would get the token.
		client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		lost: func(why error, wait time.Duration) {
			fmt.Fprintf(l.say, "the connection is lost: %s; again in %s\n", cell(why.Error(), 200), wait.Round(100*time.Millisecond))
		},
	}
	if l.token != "" {
		token, err := resolve(l.token)
		if err != nil {
			return nil, fmt.Errorf("--token: %w", err)
		}
		feed.header.Set("Authorization", "Bearer "+string(token))
	}
	return feed, nil
}

// handle deals with one block. The cursor moves only once that is done.
func (l *listener) handle(ctx context.Context, b feedBlock) error {
	switch {
	case b.event == "penstock.reset":
		return resetError(b.data)
	case b.event != "" || len(b.data) == 0: // closing, caught up, or nothing for us
	default:
		if err := l.event(ctx, b.data); err != nil {
			return err
		}
		l.shown++
		if l.forward != nil {
			return l.save(b.id)
		}
	}
	if time.Since(l.savedAt) > time.Second {
		return l.save(b.id)
	}
	return nil
}

// resetError says why a feed can't go on, and what to do.
func resetError(data []byte) error {
	var why struct{ Reason, Earliest string }
	if json.Unmarshal(data, &why) != nil || why.Reason == "" {
		return errors.New("the node can't go on from the cursor")
	}
	text := fmt.Sprintf("the node can't go on from the cursor (%s): events may be missing", cell(why.Reason, 40))
	if why.Earliest != "" {
		text += "; begin again with --from earliest and another cursor file"
	}
	return errors.New(text)
}

func (l *listener) event(ctx context.Context, data []byte) error {
	e := heardEvent{raw: data}
	if err := json.Unmarshal(data, &e); err != nil || e.ID == "" {
		return fmt.Errorf("%s sends something that is no event: %w", l.url, errors.Join(err))
	}
	if l.forward != nil {
		return l.pass(ctx, e)
	}
	if l.raw {
		_, err := fmt.Fprintf(l.out, "%s\n", data)
		return err
	}
	_, err := fmt.Fprintln(l.out, e)
	return err
}

// String is an event in one line.
func (e heardEvent) String() string {
	return fmt.Sprintf("%s  %s  %s #%d  %s  %s", e.Time.Local().Format(time.DateTime), cell(e.Type, 100), cell(e.Subject, 200),
		e.StreamVersion, cell(e.ID, 80), size(len(e.body())))
}

// body is the event's content, as exact as the event has it: JSON comes without insignificant white space.
func (e heardEvent) body() []byte {
	if len(e.DataBase64) > 0 {
		return e.DataBase64
	}
	var text string
	if len(e.Data) > 0 && e.Data[0] == '"' && !isJSON(e.DataContentType) && json.Unmarshal(e.Data, &text) == nil {
		return []byte(text)
	}
	return e.Data
}

func isJSON(contentType string) bool {
	media, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	media = strings.TrimSpace(media)
	return media == "" || media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json")
}

func size(n int) string {
	if n < 10_000 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%d kB", n/1000)
}

// pass forwards an event and says what became of it.
func (l *listener) pass(ctx context.Context, e heardEvent) error {
	done, err := l.forward.pass(ctx, e, func(try passed) {
		if !l.raw {
			fmt.Fprintf(l.say, "%s: %s; again in %s\n", cell(e.ID, 80), cell(try.what(), 200), try.wait.Round(100*time.Millisecond))
		}
	})
	if err != nil {
		return err
	}
	if !done.ok() {
		l.given++
	}
	if l.raw {
		b, err := json.Marshal(done)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(l.out, "%s\n", b)
		return err
	}
	_, err = fmt.Fprintf(l.out, "%s → %s\n", e, cell(done.what(), 300))
	return err
}

// load returns the cursor in the file, or none when there is no file yet.
func (l *listener) load() (string, error) {
	if l.cursorFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(l.cursorFile)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	cursor := strings.TrimSpace(string(b))
	if cursor == "" || len(cursor) > 64<<10 || strings.ContainsAny(cursor, " \r\n\t") {
		return "", fmt.Errorf("%s is no cursor file", l.cursorFile)
	}
	l.saved = cursor
	return cursor, nil
}

// save replaces the cursor file whole, so that it always holds a cursor.
func (l *listener) save(cursor string) error {
	l.savedAt = time.Now()
	if l.cursorFile == "" || cursor == "" || cursor == l.saved {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(l.cursorFile), ".cursor-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(cursor + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), l.cursorFile)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("remember the cursor: %w", err), os.Remove(f.Name()))
	}
	l.saved = cursor
	return nil
}

// original is a delivery's request as it was received; GET /v1/deliveries/{source}/{id}/request.
type original struct {
	Method      string
	ContentType string `json:"content_type"`
	Headers     map[string]string
	Body        string
	Base64      string `json:"body_base64"`
}

func (o original) bytes() ([]byte, error) {
	if o.Base64 != "" {
		return base64.StdEncoding.DecodeString(o.Base64)
	}
	return []byte(o.Body), nil
}
