package balances

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// fact is what the events of billing say, as far as a balance is concerned.
type fact struct {
	Amount   int64  `json:"amount"`
	Captured int64  `json:"captured"`
	Released int64  `json:"released"`
	Returned int64  `json:"returned"`
	Currency string `json:"currency"`
}

// readFact reads an event's data. What billing writes, one flat object without white space, is read by hand in a
// quarter of the time; any other form is left to encoding/json.
func readFact(data []byte) (fact, error) {
	var f fact
	s := scanner{rest: data}
	s.expect(`{`)
	for more := true; more && !s.bad; more = s.skip(`,`) {
		name := s.token()
		s.expect(`:`)
		switch string(name) {
		case `"amount"`:
			f.Amount = s.int()
		case `"captured"`:
			f.Captured = s.int()
		case `"released"`:
			f.Released = s.int()
		case `"returned"`:
			f.Returned = s.int()
		case `"currency"`:
			f.Currency = s.unquote(s.token())
		default:
			if s.next() == '"' {
				s.token()
			} else {
				s.int()
			}
		}
	}
	s.expect(`}`)
	if !s.bad && len(s.rest) == 0 {
		return f, nil
	}
	f = fact{}
	err := json.Unmarshal(data, &f)
	return f, err
}

// row is a row as far as the next one depends on it. It is written and read here by hand: a rebuild does both once per
// event, and with encoding/json they would take most of its time. Only what appendTo wrote is ever read, so the reader
// may insist on that very form and call everything else corrupt.
type row struct {
	suspended  bool
	currencies []currency // sorted by code
	charges    int64
}

type currency struct {
	code                                          string
	credit, captured, refunded, pending, disputed int64
}

// in returns the entry of a currency, a new one if there is none. It is valid until the next call.
func (r *row) in(code string) *currency {
	i, found := slices.BinarySearchFunc(r.currencies, code, func(c currency, code string) int {
		return strings.Compare(c.code, code)
	})
	if !found {
		r.currencies = slices.Insert(r.currencies, i, currency{code: code})
	}
	return &r.currencies[i]
}

func (r *row) appendTo(b []byte, customer string, e domain.Event) []byte {
	b = append(b, `{"customer":`...)
	b = appendString(b, customer)
	if r.suspended {
		b = append(b, `,"status":"suspended","balances":{`...)
	} else {
		b = append(b, `,"status":"open","balances":{`...)
	}
	for i, c := range r.currencies {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, c.code)
		b = appendInt(b, `:{"balance":`, c.credit+c.captured-c.refunded-c.disputed)
		b = appendInt(b, `,"credit":`, c.credit)
		b = appendInt(b, `,"captured":`, c.captured)
		b = appendInt(b, `,"refunded":`, c.refunded)
		b = appendInt(b, `,"pending_refunds":`, c.pending)
		b = appendInt(b, `,"disputed":`, c.disputed)
		b = append(b, '}')
	}
	b = appendInt(b, `},"charges":`, r.charges)
	b = append(b, `,"updated":"`...)
	b = e.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","version":`...)
	b = strconv.AppendUint(b, e.Version, 10)
	return append(b, '}')
}

func appendInt(b []byte, name string, n int64) []byte {
	return strconv.AppendInt(append(b, name...), n, 10)
}

// appendString appends s as a JSON string. The ids and codes of billing need no escapes.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // a string always encodes
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// readRow reads what appendTo wrote; a nil row is that of a customer without events.
func readRow(b []byte, customer string) (row, error) {
	var r row
	if b == nil {
		return r, nil
	}
	s := scanner{rest: b}
	s.expect(`{"customer":`)
	s.token()
	r.suspended = s.skip(`,"status":"suspended","balances":{`)
	if !r.suspended {
		s.expect(`,"status":"open","balances":{`)
	}
	if !s.skip(`}`) {
		r.currencies = make([]currency, 0, 1+bytes.Count(s.rest, []byte(`},"`))) // with room for one more
		for more := true; more && !s.bad; more = s.skip(`,`) {
			c := currency{code: s.unquote(s.token())}
			s.expect(`:{"balance":`)
			s.int()
			s.expect(`,"credit":`)
			c.credit = s.int()
			s.expect(`,"captured":`)
			c.captured = s.int()
			s.expect(`,"refunded":`)
			c.refunded = s.int()
			s.expect(`,"pending_refunds":`)
			c.pending = s.int()
			s.expect(`,"disputed":`)
			c.disputed = s.int()
			s.expect(`}`)
			r.currencies = append(r.currencies, c)
		}
		s.expect(`}`)
	}
	s.expect(`,"charges":`)
	r.charges = s.int()
	s.expect(`,"updated":`)
	if s.bad {
		return row{}, &domain.Error{Class: domain.Corrupt,
			Message: fmt.Sprintf("the balance row of %s is not of this projection's form", customer)}
	}
	return r, nil
}

// scanner reads a known form. bad stays true after the first mismatch.
type scanner struct {
	rest []byte
	bad  bool
}

func (s *scanner) skip(want string) bool {
	if len(s.rest) < len(want) || string(s.rest[:len(want)]) != want {
		return false
	}
	s.rest = s.rest[len(want):]
	return true
}

func (s *scanner) expect(want string) {
	if !s.skip(want) {
		s.bad = true
	}
}

// next is the byte that comes next, or 0 at the end.
func (s *scanner) next() byte {
	if len(s.rest) == 0 {
		return 0
	}
	return s.rest[0]
}

// int reads an integer of at most 18 digits, more than billing's bounds allow.
func (s *scanner) int() int64 {
	negative := s.skip(`-`)
	n, digits := int64(0), 0
	for c := s.next(); '0' <= c && c <= '9' && digits < 18; c = s.next() {
		n = 10*n + int64(c-'0')
		s.rest, digits = s.rest[1:], digits+1
	}
	s.bad = s.bad || digits == 0
	if negative {
		return -n
	}
	return n
}

// token reads a JSON string and returns it with its quotes and escapes.
func (s *scanner) token() []byte {
	for i := 1; i < len(s.rest) && s.rest[0] == '"'; i++ {
		switch c := s.rest[i]; {
		case c == '\\':
			i++
		case c == '"':
			token := s.rest[:i+1]
			s.rest = s.rest[i+1:]
			return token
		case c < ' ':
			s.bad = true
		}
	}
	s.bad = true
	return nil
}

// unquote returns the text of a token.
func (s *scanner) unquote(token []byte) string {
	if len(token) >= 2 && bytes.IndexByte(token, '\\') < 0 {
		return string(token[1 : len(token)-1])
	}
	var v string
	s.bad = s.bad || json.Unmarshal(token, &v) != nil
	return v
}
