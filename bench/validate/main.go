// Command validate follows the events of one or more nodes as a client with a bad connection would, over every transport,
// and says whether it got each event once and every stream in order.
//
//	go run ./bench/validate -switches 10000 http://127.0.0.1:8080 http://127.0.0.1:8081
//
// It connects with the cursor that it has, over a transport and to a node that chance picks, reads some events or waits
// a little for new ones, and hangs up in the middle of whatever is coming. At the end it reads the same range once more
// in one piece and compares. It makes no events: something else should, meanwhile.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "validate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("validate ‹url of a node›…", flag.ContinueOnError)
	switches := fs.Int("switches", 1000, "connections to make")
	seed := fs.Uint64("seed", rand.Uint64(), "of everything that chance decides")
	from := fs.String("from", "latest", "where to begin: latest, earliest, a time or a cursor")
	token := fs.String("token", "", "name of the environment variable that holds a bearer token")
	limit := fs.Duration("limit", time.Hour, "give up after")
	if err := fs.Parse(args); err != nil {
		return flag.ErrHelp // the flag set has said why
	}
	if fs.NArg() == 0 || *switches < 1 {
		fs.Usage()
		return flag.ErrHelp
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	fmt.Fprintf(out, "seed %d\n", *seed)
	c := client{nodes: fs.Args(), rnd: rand.New(rand.NewPCG(*seed, 1)), token: os.Getenv(*token)}
	begin, err := c.begin(ctx, *from)
	if err != nil {
		return err
	}
	v := validator{seen: map[string]bool{}, versions: map[string]uint64{}, cursor: begin, complete: *from == "earliest"}
	began := time.Now()
	by := map[string]int{}
	for range *switches {
		transport := transports[c.rnd.IntN(len(transports))]
		by[transport.name]++
		if err := c.some(ctx, transport, &v); err != nil {
			return fmt.Errorf("%s, after %d events: %w", transport.name, len(v.order), err)
		}
	}
	if err := c.rest(ctx, &v); err != nil {
		return fmt.Errorf("the rest, after %d events: %w", len(v.order), err)
	}
	reference, err := c.between(ctx, begin, v.cursor)
	if err != nil {
		return fmt.Errorf("the same in one piece: %w", err)
	}
	fmt.Fprintf(out, "%d connections in %s (", *switches, time.Since(began).Round(time.Millisecond))
	for i, t := range transports {
		if i > 0 {
			fmt.Fprint(out, ", ")
		}
		fmt.Fprintf(out, "%s %d", t.name, by[t.name])
	}
	fmt.Fprintf(out, "), %d cut in the middle of a message; %d events of %d streams\n", c.cuts, len(v.order), len(v.versions))
	return v.compare(reference)
}

// validator is what a client has got.
type validator struct {
	order    []string // ids, as they came
	seen     map[string]bool
	versions map[string]uint64 // of each stream, the last one
	cursor   string
	complete bool // from the first event of each stream on
}

// event is what the validator looks at.
type event struct {
	ID            string
	Subject       string
	StreamVersion uint64
	Cursor        string
	Penstock      string
	Reason        string
}

// take checks an event against those before.
func (v *validator) take(e event) error {
	if e.Cursor != "" {
		v.cursor = e.Cursor
	}
	if e.ID == "" || e.Penstock != "" {
		if e.Penstock == "reset" {
			return fmt.Errorf("the feed was reset: %s", e.Reason)
		}
		return nil
	}
	last, known := v.versions[e.Subject]
	switch {
	case v.seen[e.ID]:
		return fmt.Errorf("event %s (%s, version %d) came twice", e.ID, e.Subject, e.StreamVersion)
	case known && e.StreamVersion != last+1, !known && v.complete && e.StreamVersion != 1:
		return fmt.Errorf("of %s came version %d after %d", e.Subject, e.StreamVersion, last)
	}
	v.seen[e.ID] = true
	v.versions[e.Subject] = e.StreamVersion
	v.order = append(v.order, e.ID)
	return nil
}

// compare demands that the events are those of the reference.
func (v *validator) compare(reference []string) error {
	got, want := slices.Sorted(slices.Values(v.order)), slices.Sorted(slices.Values(reference))
	if slices.Equal(got, want) {
		return nil
	}
	var missing []string
	for _, id := range want {
		if !v.seen[id] {
			missing = append(missing, id)
		}
	}
	return fmt.Errorf("%d events came, %d are in the log; missing: %s", len(got), len(want), strings.Join(missing[:min(10, len(missing))], " "))
}
