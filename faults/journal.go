// Package faults tests the promises of the write side while nodes, brokers and the network between them fail: load that
// keeps a journal, faults drawn from a seed, and a checker that compares the journal with the log. See README.md.
package faults

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Request is one thing that a client wants to happen once. It may be sent many times, always under the same id.
type Request struct {
	Kind     string  `json:"kind"`             // Delivery or Command
	Source   string  `json:"source,omitempty"` // of a delivery
	ID       string  `json:"id"`               // delivery id, or Idempotency-Key
	Stream   string  `json:"stream"`
	Expected *uint64 `json:"expected,omitempty"` // If-Match
	Digest   string  `json:"digest,omitempty"`   // of a delivery's body: it must stand in events byte for byte
	// Once marks a request that is never sent again: it may stay unknown, and then take effect or not.
	Once bool `json:"once,omitempty"`
}

// The kinds of request.
const (
	Delivery = "delivery"
	Command  = "command"
)

// Attempt is one sending of a request. Without an answer (Status 0) its fate is unknown: neither done nor not done.
type Attempt struct {
	Request
	Number   int
	Node     int
	Sent     time.Duration // since the run began
	Answered time.Duration
	Status   int    // 0: no answer
	Trouble  string // why there was no answer
	Body     json.RawMessage
}

// Acknowledged reports whether the answer says that the request is in the log.
func (a Attempt) Acknowledged() bool {
	return a.Status/100 == 2 || a.Kind == Command && (a.Status == 409 || a.Status == 412)
}

// Journal is what the clients know: every attempt is written before it is sent and after it was answered. The file
// belongs to the load's process, which is never the one that is killed.
type Journal struct {
	began time.Time

	mu     sync.Mutex
	file   *os.File
	w      *bufio.Writer
	number int
	failed error
}

// line is one line of the file: an attempt as it is sent, or the answer to one.
type line struct {
	Number  int             `json:"n"`
	At      time.Duration   `json:"at"`
	Node    int             `json:"node"`
	Request *Request        `json:"request,omitempty"` // sent
	Status  int             `json:"status,omitempty"`  // answered
	Trouble string          `json:"trouble,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// NewJournal begins a file at path.
func NewJournal(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &Journal{began: time.Now(), file: f, w: bufio.NewWriter(f)}, nil
}

// Send notes that a request is about to be sent, and returns the number under which Answer closes it.
func (j *Journal) Send(r Request, node int) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.number++
	j.write(line{Number: j.number, At: time.Since(j.began), Node: node, Request: &r})
	return j.number
}

// Answer notes how an attempt ended: with a status and a body, or with trouble.
func (j *Journal) Answer(number, status int, body []byte, trouble error) {
	l := line{Number: number, Status: status}
	if trouble != nil {
		l.Trouble = trouble.Error()
	}
	if json.Valid(body) {
		l.Body = body
	} else if len(body) > 0 {
		l.Body, _ = json.Marshal(string(body)) // a string always encodes
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	l.At = time.Since(j.began)
	j.write(l)
}

func (j *Journal) write(l line) {
	b, err := json.Marshal(l)
	if err == nil {
		_, err = j.w.Write(append(b, '\n'))
	}
	if err != nil && j.failed == nil {
		j.failed = err
	}
}

// Close writes everything out. It tells of the first line that could not be written.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.w.Flush()
	if j.failed != nil {
		err = j.failed
	}
	if e := j.file.Close(); err == nil {
		err = e
	}
	return err
}

// ReadJournal returns the attempts of a journal in the order in which they were sent.
func ReadJournal(r io.Reader) ([]Attempt, error) {
	var all []Attempt
	at := map[int]int{} // number → place in all
	dec := json.NewDecoder(r)
	for {
		var l line
		if err := dec.Decode(&l); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("read the journal after attempt %d: %w", len(all), err)
		}
		if l.Request != nil {
			at[l.Number] = len(all)
			all = append(all, Attempt{Request: *l.Request, Number: l.Number, Node: l.Node, Sent: l.At})
			continue
		}
		i, ok := at[l.Number]
		if !ok {
			return nil, fmt.Errorf("the journal has an answer to attempt %d, which was never sent", l.Number)
		}
		all[i].Answered, all[i].Status, all[i].Trouble, all[i].Body = l.At, l.Status, l.Trouble, l.Body
	}
}
