package projections

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// Bounds of one query. It reads in one transaction, which keeps the file from reusing its pages as long as it lasts.
const (
	maxScanned      = 20_000    // rows that a filter looks at
	maxScannedBytes = 64 << 20  // and bytes of them
	maxCounted      = 1_000_000 // entries that a count without a filter passes over
	pageBytes       = 4 << 20   // of rows on one page
	scansAtOnce     = 4         // queries of a view that may look at many rows; the others wait
)

// MaxQueryKeys is how many rows can be asked for by key at once.
const MaxQueryKeys = 200

// Query asks for rows: all of them or a range, in the order of their keys or of an index.
type Query struct {
	// Index is the name of an index; without one the rows' own keys are meant.
	Index string
	// Eq are values of the first fields of the index, one for each.
	Eq []string
	// Bounds of the next field, or of the key; nil for none. Prefix is for texts and excludes the others.
	Gte, Gt, Lte, Lt, Prefix *string
	Desc                     bool
	// Filter is an expression over key and row that says which of the rows are wanted.
	Filter string
	Cursor string // Next of the page before
	Limit  int
	// Partial has a filter end the page when it has looked at as many rows as it may, instead of failing.
	Partial bool
}

// Page is a part of an answer, as of one moment.
type Page struct {
	Rows []Row
	Next string // cursor of the next page; empty on the last one
	At   eventstore.Position
}

// Query returns the next page. Errors of class Invalid name what of the query is wrong; a filter that would have to look
// at more than a bounded number of rows is one of them, of rule "scan-limit".
//
// A row that doesn't change is on exactly one page. One that moves in the order meanwhile may be on two or on none.
func (v *View) Query(ctx context.Context, q Query) (page Page, err error) {
	s, err := v.selection(q)
	if err != nil {
		return page, err
	}
	after, err := parseCursor(q.Cursor)
	if err != nil {
		return page, err
	}
	release, err := v.scanning(ctx, s.filter != nil)
	if err != nil {
		return page, err
	}
	defer release()
	err = v.readOf(func(g *generation) func(*eventstore.Tx) error {
		return func(tx *eventstore.Tx) error {
			page = Page{}
			at, err := g.at(tx)
			if err != nil {
				return err
			}
			page.At = at
			if after.place != nil {
				if err := after.of(at.Scope, s.hash); err != nil {
					return err
				}
			}
			if err := g.hasIndex(s.index); err != nil {
				return err
			}
			size, last := 0, after.place
			var limited *scanLimit
			err = s.scan(ctx, tx, after.place, func(place []byte, key string, row []byte) bool {
				if len(page.Rows) == q.Limit || size > 0 && size+len(row) > pageBytes {
					page.Next = cursor{at.Scope, s.hash, last}.String()
					return false
				}
				page.Rows = append(page.Rows, Row{Key: key, Row: bytes.Clone(row)})
				size, last = size+len(row), bytes.Clone(place)
				return true
			})
			if errors.As(err, &limited) && (q.Partial || len(page.Rows) == q.Limit) {
				page.Next, err = cursor{at.Scope, s.hash, limited.last}.String(), nil
			} else if limited != nil {
				err = v.tooMany(fmt.Sprintf("the filter has looked at %d rows and found %d of the %d asked for", limited.scanned, len(page.Rows), q.Limit))
			}
			return err
		}
	})
	return page, err
}

// Count returns how many rows the query has, exactly. More entries than may be passed over are of class Invalid.
func (v *View) Count(ctx context.Context, q Query) (n int64, at eventstore.Position, err error) {
	s, err := v.selection(q)
	if err != nil {
		return 0, at, err
	}
	all := s.index == "" && s.lo == nil && s.hi == nil && s.filter == nil
	release, err := v.scanning(ctx, !all)
	if err != nil {
		return 0, at, err
	}
	defer release()
	err = v.readOf(func(g *generation) func(*eventstore.Tx) error {
		return func(tx *eventstore.Tx) error {
			if at, err = g.at(tx); err != nil {
				return err
			}
			if err := g.hasIndex(s.index); err != nil {
				return err
			}
			if n = 0; all {
				n = tx.Count()
				return nil
			}
			s.entries = s.filter == nil
			err := s.scan(ctx, tx, nil, func([]byte, string, []byte) bool { n++; return true })
			var limited *scanLimit
			if errors.As(err, &limited) {
				err = v.tooMany(fmt.Sprintf("there are more than %d rows to look at, and %d counted among them", limited.scanned, n))
			}
			return err
		}
	})
	return n, at, err
}

// Many returns the rows of several keys as of one moment, in the order asked for, and which keys have none.
func (v *View) Many(keys []string) (rows []Row, missing []string, at eventstore.Position, err error) {
	if len(keys) > MaxQueryKeys {
		return nil, nil, at, domain.Invalidf("key", "at most %d keys at once, not %d", MaxQueryKeys, len(keys))
	}
	err = v.readOf(func(g *generation) func(*eventstore.Tx) error {
		return func(tx *eventstore.Tx) error {
			rows, missing = nil, nil
			if at, err = g.at(tx); err != nil {
				return err
			}
			size, seen := 0, map[string]bool{}
			for _, key := range keys {
				if seen[key] {
					continue
				}
				seen[key] = true
				row := tx.Get(key)
				if row == nil {
					missing = append(missing, key)
					continue
				}
				if size += len(row); size > pageBytes && len(rows) > 0 {
					return domain.Invalidf("key", "the rows of these keys have more than %d bytes; ask for fewer at once", pageBytes)
				}
				rows = append(rows, Row{Key: key, Row: bytes.Clone(row)})
			}
			return nil
		}
	})
	return rows, missing, at, err
}

// scanning waits for a turn to look at many rows.
func (v *View) scanning(ctx context.Context, many bool) (release func(), err error) {
	if !many {
		return func() {}, nil
	}
	select {
	case v.scans <- struct{}{}:
		return func() { <-v.scans }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// hasIndex reports an error for a generation of an older definition, which may lack the index.
func (g *generation) hasIndex(name string) error {
	if name != "" && g.frozen {
		return &domain.Error{Class: domain.Unavailable, Rule: "building",
			Message: "the index " + name + " is being built; until then the rows can be asked for by key"}
	}
	return nil
}

// tooMany refuses a query that has looked at as many rows as it may.
func (v *View) tooMany(text string) error {
	hint := "bound them with gte, gt, lte, lt or prefix"
	if names := v.Indexes(); len(names) > 0 {
		hint += ", or by an index: there are " + strings.Join(names, " and ")
	}
	return &domain.Error{Class: domain.Invalid, Field: "filter", Rule: "scan-limit",
		Message: text + "; " + hint + ". An export, with Accept: application/x-ndjson, has no such bound"}
}

// Indexes are the names of the indexes that queries can use.
func (v *View) Indexes() (names []string) {
	if p, ok := v.projection.(Indexed); ok {
		for _, x := range p.Indexes() {
			names = append(names, x.Name)
		}
	}
	return names
}

// Schema is what the rows look like; of any type if the projection doesn't say.
func (v *View) Schema() Schema {
	if p, ok := v.projection.(Documented); ok {
		return p.RowSchema()
	}
	return Schema{}
}

// scanLimit ends a scan that has looked at as many rows as it may.
type scanLimit struct {
	scanned int
	last    []byte // the place after which it would go on
}

func (*scanLimit) Error() string { return "too many rows to look at" }

// scan calls f for each wanted row in order, after the given place, until f returns false. A place is the row's key, or
// that of the index's entry.
func (s *selection) scan(ctx context.Context, tx *eventstore.Tx, after []byte, f func(place []byte, key string, row []byte) bool) (err error) {
	scanned, size, most := 0, 0, maxScanned
	if s.entries {
		most = maxCounted
	}
	var last []byte
	visit := func(place, key, row []byte) bool {
		if s.outside(place) {
			return false
		}
		if scanned%1024 == 0 {
			if err = ctx.Err(); err != nil {
				return false
			}
		}
		if (s.filter != nil || s.entries) && (scanned >= most || size >= maxScannedBytes) {
			err = &scanLimit{scanned, bytes.Clone(last)}
			return false
		}
		scanned++
		if s.entries {
			return f(place, "", nil)
		}
		if row == nil {
			row = tx.Get(string(key))
		}
		size, last = size+len(row), place
		if s.filter != nil {
			var yes bool
			if yes, err = s.filter.match(string(key), row); err != nil || !yes {
				return err == nil
			}
		}
		return f(place, string(key), row)
	}
	rows := func(k, row []byte) bool { return visit(k, k, row) }
	entries := func(k, key []byte) bool { return visit(k, key, nil) }
	if s.index == "" {
		if s.desc {
			tx.ScanBack(string(s.from(after)), rows)
			return err
		}
		return errors.Join(tx.Scan(string(s.from(after)), rows), err)
	}
	index, missing := tx.Index(rowIndex + s.index)
	if missing != nil {
		return missing
	}
	if s.desc {
		index.ScanBack(s.from(after), entries)
	} else {
		index.Scan(s.from(after), entries)
	}
	return err
}

// from is where to seek: the first place that counts, or in falling order the one that every place is before; nil for
// the very end.
func (s *selection) from(after []byte) []byte {
	switch {
	case after != nil && s.desc:
		return after
	case after != nil:
		return append(bytes.Clone(after), 0)
	case s.desc:
		return s.hi
	}
	return s.lo
}

// outside reports whether a place is beyond the ends of the range.
func (s *selection) outside(place []byte) bool {
	return bytes.Compare(place, s.lo) < 0 || s.hi != nil && bytes.Compare(place, s.hi) >= 0
}
