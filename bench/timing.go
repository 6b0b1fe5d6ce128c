package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/ingress"
)

// timing measures whether the time of a refusal tells where a wrong signature or token begins to differ from the right
// one. Whoever could read that off would find it byte by byte. Both kinds of request are sent in a random order to one
// handler, in process, so that nothing but the handler is in the figure. What it is compared with is the same kind
// against itself, which is the noise, and a handler that compares byte by byte, which is what a leak would look like.
func (b *bench) timing(ctx context.Context) error {
	rounds, window := or(b.rounds, 5), or(b.window, 2*time.Second)
	fmt.Fprintf(b.out, "\ntiming: refusals of a signature wrong in its first or in one of its last digits, %d rounds of %s\n", rounds, window)
	t := newTable(b.out, "what is asked", "first over last", "over the rounds", "first over first", "over the rounds", "a refusal takes")
	kinds := []string{"github.issues.opened", "stripe.charge.succeeded", "slack.message", "standard.invoice.paid"}
	for _, kind := range append(kinds, ingress.SampleTypes("gitlab")...) {
		provider, _, _ := strings.Cut(kind, ".")
		door, request, err := refusals(kind)
		if err != nil {
			return err
		}
		if err := compareTimes(ctx, t, provider, rounds, window, door, request); err != nil {
			return err
		}
	}
	if err := compareTimes(ctx, t, "byte by byte", rounds, window, http.HandlerFunc(byteByByte), bareRefusal); err != nil {
		return err
	}
	t.end()
	return nil
}

// compareTimes runs the rounds of one handler. request returns a fresh request whose signature is wrong at its beginning,
// or only near its end.
func compareTimes(
	ctx context.Context, t table, name string, rounds int, window time.Duration, door http.Handler, request func(early bool) *http.Request,
) error {
	var between, within, each []float64
	for range rounds {
		var times [3][]time.Duration // wrong early, wrong late, wrong early again
		for end := time.Now().Add(window); time.Now().Before(end); {
			if err := ctx.Err(); err != nil {
				return err
			}
			for range 1000 {
				group := rand.IntN(3)
				r, w := request(group != 1), &silent{header: http.Header{}}
				began := time.Now()
				door.ServeHTTP(w, r)
				took := time.Since(began)
				if w.status != http.StatusUnauthorized {
					return fmt.Errorf("timing: %s answers %d instead of refusing", name, w.status)
				}
				times[group] = append(times[group], took)
			}
		}
		var medians [3]float64
		for i := range times {
			slices.Sort(times[i])
			// The lower half has the least noise of the machine in it.
			medians[i] = float64(percentile(times[i], 0.25))
		}
		between, within, each = append(between, medians[0]/medians[1]), append(within, medians[0]/medians[2]), append(each, medians[0]/1e9)
	}
	t.row(name, fmt.Sprintf("%.4f", median(between)), fine(between), fmt.Sprintf("%.4f", median(within)), fine(within), micros(median(each)))
	return nil
}

func fine(values []float64) string {
	return fmt.Sprintf("%.4f–%.4f", slices.Min(values), slices.Max(values))
}

// refusals returns a handler with one source, and requests for it.
func refusals(kind string) (http.Handler, func(early bool) *http.Request, error) {
	provider, _, _ := strings.Cut(kind, ".")
	key := ingress.Secret("aSecretOfTheTimingComparison")
	if provider == "standard" {
		key = ingress.Secret("whsec_YSBzZWNyZXQgb2YgdGhlIHRpbWluZyBjb21wYXJpc29u")
	}
	hooks, err := ingress.New(ingress.Config{
		Sources: []ingress.Source{{Name: "timed", Provider: provider, Secrets: ingress.Keys(key)}},
		Append: func(context.Context, eventstore.Entry) (ingress.Durability, error) {
			return "", fmt.Errorf("a wrong signature was accepted")
		},
	})
	if err != nil {
		return nil, nil, err
	}
	d, err := ingress.Sample(kind, ingress.Facts{ID: "timed"})
	if err != nil {
		return nil, nil, err
	}
	signed, err := d.Request(context.Background(), "http://127.0.0.1", "timed", key, time.Now())
	if err != nil {
		return nil, nil, err
	}
	// One header for all requests: two maps with the same content take different times.
	at, first, last := "", "", ""
	for name, values := range signed.Header {
		if strings.Contains(name, "Signature") || strings.Contains(name, "Token") {
			at, first, last = name, spoil(values[0], true), spoil(values[0], false)
		}
	}
	return hooks, func(early bool) *http.Request {
		r := *signed
		r.Body = io.NopCloser(bytes.NewReader(d.Body))
		r.Header[at][0] = last
		if early {
			r.Header[at][0] = first
		}
		r.SetPathValue("source", "timed")
		return &r
	}, nil
}

// spoil changes one digit of the signature in a header: the first, or the third from the end, which in base64 is still
// a digit of all of its bits.
func spoil(header string, early bool) string {
	at, length := 0, 0
	for i := 0; i < len(header); {
		n := len(header[i:]) - len(strings.TrimLeft(header[i:], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"))
		if n > length {
			at, length = i, n
		}
		i += n + 1
	}
	if !early {
		at += length - 3
	}
	digit := byte('0')
	if header[at] == digit {
		digit = '1'
	}
	return header[:at] + string(digit) + header[at+1:]
}

// byteByByte is the mistake that the comparison looks for.
func byteByByte(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	mac := hmac.New(sha256.New, []byte("a secret"))
	mac.Write(body)
	right, sent := hex.EncodeToString(mac.Sum(nil)), r.Header.Get("X-Signature")
	for i := range right {
		if i >= len(sent) || right[i] != sent[i] {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	}
	w.WriteHeader(http.StatusOK)
}

// spoiled are signatures of "{}" under the secret of byteByByte that are wrong late, and early.
var spoiled = func() [2]string {
	mac := hmac.New(sha256.New, []byte("a secret"))
	mac.Write([]byte("{}"))
	right := hex.EncodeToString(mac.Sum(nil))
	return [2]string{spoil(right, false), spoil(right, true)}
}()

var bareHeader = http.Header{"X-Signature": {""}}

func bareRefusal(early bool) *http.Request {
	bareHeader["X-Signature"][0] = spoiled[0]
	if early {
		bareHeader["X-Signature"][0] = spoiled[1]
	}
	return &http.Request{Method: http.MethodPost, Header: bareHeader, Body: io.NopCloser(strings.NewReader("{}"))}
}

// silent is an answer that goes nowhere.
type silent struct {
	header http.Header
	status int
}

func (s *silent) Header() http.Header         { return s.header }
func (s *silent) Write(b []byte) (int, error) { return len(b), nil }
func (s *silent) WriteHeader(status int)      { s.status = status }
