package penstock

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock-io/penstock/client"
	"github.com/spf13/cobra"
)

// listener is the listen command: it follows the events of a node and shows each, or forwards it, and remembers how far
// it came.
type listener struct {
	remote
	sources, types, streams []string
	from, cursorFile        string
	transport               string
	forward                 *forwarder // nil to show events only

	out, say     io.Writer
	cursor       string // after the last message that was handled
	saved        string // cursor in the file
	savedAt      time.Time
	shown, given int // events handled, and those among them whose forward was given up
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
	f.StringVar(&l.transport, "transport", "auto", "websocket, sse or long-poll; auto takes the first that gets through")
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
	feed, options, err := l.feed()
	if err != nil {
		return err
	}
	err = client.Follow(ctx, feed, options, func(m client.Message) error { return l.handle(ctx, m) })
	if r, ok := errors.AsType[*client.Refused](err); ok {
		err = refusedFeed(r)
	}
	err = errors.Join(err, l.save())
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil
	}
	if l.forward != nil && l.given > 0 {
		fmt.Fprintf(l.say, "%d of %d events could not be forwarded\n", l.given, l.shown)
	}
	return err
}

// feed is the feed that the flags ask for.
func (l *listener) feed() (feed string, o client.Options, err error) {
	q := url.Values{"type": l.types, "stream": l.streams}
	for _, s := range l.sources {
		if !strings.HasPrefix(s, "/") {
			s = "/sources/" + s
		}
		q.Add("source", s)
	}
	o = client.Options{Transport: client.Transport(l.transport), Notice: l.notice}
	if o.Cursor, err = l.load(); err != nil {
		return "", o, err
	}
	switch _, timeErr := time.Parse(time.RFC3339, l.from); {
	case o.Cursor != "":
	case l.from == "earliest", l.from == "latest", strings.HasPrefix(l.from, "-"), timeErr == nil:
		o.From = l.from
	default:
		o.Cursor = l.from
	}
	if l.token != "" {
		o.Token = func(context.Context) (string, error) { // read anew for each connection: a file may have a new one
			token, err := resolve(l.token)
			return string(token), err
		}
		if _, err := resolve(l.token); err != nil {
			return "", o, fmt.Errorf("--token: %w", err)
		}
	}
	return strings.TrimSuffix(l.url, "/") + "/v1/events?" + q.Encode(), o, nil
}

// notice says what becomes of the connection. One that is over because feeds live only so long is made anew without a word.
func (l *listener) notice(n client.Notice) {
	switch n.Kind {
	case client.Lost:
		if c, ok := errors.AsType[*client.Closing](n.Err); ok && c.Reason == "lifetime" {
			return
		}
		fmt.Fprintf(l.say, "the connection is lost: %s; again in %s\n", cell(n.Err.Error(), 200), n.Wait.Round(100*time.Millisecond))
	case client.Switched:
		fmt.Fprintf(l.say, "%s does not get through: %s; %s instead\n", n.Transport, cell(n.Err.Error(), 200), n.Next)
	}
}

// refusedFeed says why a feed can't begin or go on, and what to do.
func refusedFeed(r *client.Refused) error {
	switch r.Kind() {
	case "expired", "reset", "future":
	default:
		return errors.New(cell(r.Error(), 400))
	}
	text := fmt.Sprintf("the node can't go on from the cursor (%s): events may be missing", r.Kind())
	if r.Earliest != "" {
		text += "; begin again with --from earliest and another cursor file"
	}
	return errors.New(text)
}

// handle deals with one message. The cursor moves only once that is done.
func (l *listener) handle(ctx context.Context, m client.Message) error {
	if m.Kind == client.KindEvent {
		if err := l.event(ctx, m); err != nil {
			return err
		}
		l.shown++
	}
	if m.Cursor != "" {
		l.cursor = m.Cursor
	}
	if l.forward != nil && m.Kind == client.KindEvent || time.Since(l.savedAt) > time.Second {
		return l.save()
	}
	return nil
}

func (l *listener) event(ctx context.Context, m client.Message) error {
	e, err := m.Event()
	if err != nil {
		return fmt.Errorf("%s sends something that is no event: %w", l.url, err)
	}
	if l.forward != nil {
		return l.pass(ctx, &e)
	}
	if l.raw {
		_, err := fmt.Fprintf(l.out, "%s\n", m.Data)
		return err
	}
	_, err = fmt.Fprintln(l.out, eventLine(&e))
	return err
}

// eventLine is an event in one line.
func eventLine(e *client.CloudEvent) string {
	return fmt.Sprintf("%s  %s  %s #%d  %s  %s", e.Time.Local().Format(time.DateTime), cell(e.Type, 100), cell(e.Subject, 200),
		e.StreamVersion, cell(e.ID, 80), size(len(e.Body())))
}

func size(n int) string {
	if n < 10_000 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%d kB", n/1000)
}

// pass forwards an event and says what became of it.
func (l *listener) pass(ctx context.Context, e *client.CloudEvent) error {
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
	_, err = fmt.Fprintf(l.out, "%s → %s\n", eventLine(e), cell(done.what(), 300))
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
func (l *listener) save() error {
	cursor := l.cursor
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
