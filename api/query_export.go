package api

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/projections"
)

// exportsAtOnce bounds the exports of a node: each reads a table as fast as it is taken.
const exportsAtOnce = 4

// exportRows is how many rows of an export are read in one transaction. None is open while they are sent.
const exportRows = 1000

const (
	formatJSON   = "application/json"
	formatNDJSON = "application/x-ndjson"
	formatCSV    = "text/csv"
)

func documentExports(responses map[string]*huma.Response) {
	text := &huma.Schema{Type: huma.TypeString}
	content := responses["200"].Content
	content[formatNDJSON] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Description: "A line for each row: {\"key\": …, \"row\": …}"}}
	content[formatCSV] = &huma.MediaType{Schema: text}
}

// formatOf is what a client wants most of what there is (RFC 9110, section 12.5.1). What it doesn't name is JSON.
func formatOf(accept string) string {
	best, most := formatJSON, 0.0
	for part := range strings.SplitSeq(accept, ",") {
		kind, parameters, err := mime.ParseMediaType(part)
		if err != nil || kind != formatJSON && kind != formatNDJSON && kind != formatCSV {
			continue
		}
		quality := 1.0
		if text, ok := parameters["q"]; ok {
			if quality, err = strconv.ParseFloat(text, 64); err != nil {
				continue
			}
		}
		if quality > most {
			best, most = kind, quality
		}
	}
	return best
}

// export sends every row of a query. It reads them piece by piece, each as of its own moment, from the position of the
// first on.
func (s *server) export(ctx context.Context, v *projections.View, q projections.Query, format string) (*huma.StreamResponse, error) {
	select {
	case s.exports <- struct{}{}:
	default:
		return nil, &domain.Error{Class: domain.Unavailable, Rule: "exports-running", Message: "as many exports as a node makes at once are running"}
	}
	left := q.Limit // 0: all
	next := func() (projections.Page, error) {
		q.Partial, q.Limit = true, exportRows
		if left > 0 {
			q.Limit = min(q.Limit, left)
		}
		return v.Query(ctx, q)
	}
	first, err := next()
	if err != nil {
		<-s.exports
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer func() { <-s.exports }()
		hc.SetHeader("Content-Type", map[string]string{formatCSV: "text/csv; charset=utf-8; header=present", formatNDJSON: formatNDJSON}[format])
		hc.SetHeader("Penstock-Position", first.At.String())
		hc.SetHeader("Cache-Control", "no-store")
		hc.SetHeader("Vary", "Accept, Origin")
		hc.SetStatus(http.StatusOK)
		w := hc.BodyWriter()
		to := &patient{w, http.NewResponseController(w.(http.ResponseWriter))}
		encode := encodeNDJSON
		if format == formatCSV {
			encode = csvEncoder(v.Columns())
		}
		send := func(p projections.Page) error {
			b, err := encode(p.Rows)
			if err == nil && len(b) > 0 {
				_, err = to.Write(b)
			}
			return err
		}
		p, err := first, send(first)
		for err == nil && p.Next != "" {
			if left > 0 {
				if left -= len(p.Rows); left == 0 {
					break
				}
			}
			q.Cursor = p.Next
			if p, err = next(); err == nil {
				err = send(p)
			}
		}
		if err != nil {
			s.Logger.Warn("an export broke off", "projection", v.Name(), "error", err)
			// Whoever loads it must see that: the end of an answer in chunks would say that it is whole.
			panic(http.ErrAbortHandler)
		}
	}}, nil
}

func encodeNDJSON(rows []projections.Row) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	for _, r := range rows {
		if err := e.Encode(row{r.Key, r.Row}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// csvEncoder writes RFC 4180, with the names of the columns first: the key and each field of the row. A text stands as it
// is, null as nothing, and everything else as JSON. Rows whose fields aren't known before stand whole in one column.
func csvEncoder(columns []string) func([]projections.Row) ([]byte, error) {
	begun := false
	return func(rows []projections.Row) ([]byte, error) {
		var out bytes.Buffer
		w := csv.NewWriter(&out)
		w.UseCRLF = true
		if !begun {
			begun = true
			head := []string{"key", "row"}
			if columns != nil {
				head = append([]string{"key"}, columns...)
			}
			if err := w.Write(head); err != nil {
				return nil, err
			}
		}
		for _, r := range rows {
			line := []string{r.Key}
			if columns == nil {
				line = append(line, string(r.Row))
			} else {
				var fields map[string]json.RawMessage
				if err := json.Unmarshal(r.Row, &fields); err != nil {
					return nil, err
				}
				for _, name := range columns {
					line = append(line, cellOf(fields[name]))
				}
			}
			if err := w.Write(line); err != nil {
				return nil, err
			}
		}
		w.Flush()
		return out.Bytes(), w.Error()
	}
}

func cellOf(value json.RawMessage) string {
	var text string
	switch {
	case string(value) == "null":
		return ""
	case len(value) > 0 && value[0] == '"' && json.Unmarshal(value, &text) == nil:
		return text
	}
	return string(value)
}
