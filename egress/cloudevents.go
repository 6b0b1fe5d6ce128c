package egress

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// AppendCloudEvent appends e in the JSON format of CloudEvents 1.0.2
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md), on one line. Empty attributes
// are left out, as is data when the body is empty. The body is
//   - data, as JSON without insignificant white space, when the content type is JSON (or not given, which means the
//     same) and the body is JSON in UTF-8;
//   - data, as a string, when the content type is text, XML or a form and the body is UTF-8;
//   - data_base64 otherwise: the exact bytes.
func AppendCloudEvent(dst []byte, e *domain.Event) []byte {
	dst = append(dst, `{"specversion":"1.0"`...)
	dst = appendAttribute(dst, `,"id":`, e.ID)
	dst = appendAttribute(dst, `,"type":`, e.Type)
	dst = appendAttribute(dst, `,"source":`, e.Source)
	dst = appendAttribute(dst, `,"subject":`, string(e.Stream))
	if !e.Time.IsZero() {
		dst = append(dst, `,"time":"`...)
		dst = e.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
		dst = append(dst, '"')
	}
	dst = appendAttribute(dst, `,"datacontenttype":`, e.ContentType)
	if e.Version > 0 {
		dst = append(dst, `,"streamversion":`...)
		dst = strconv.AppendUint(dst, e.Version, 10)
	}
	dst = appendAttribute(dst, `,"correlationid":`, e.Correlation)
	dst = appendAttribute(dst, `,"causationid":`, e.Causation)
	dst = appendAttribute(dst, `,"traceparent":`, e.TraceParent)
	dst = appendAttribute(dst, `,"deliveryid":`, e.Delivery)
	dst = appendAttribute(dst, `,"verification":`, e.Verification)
	dst = appendAttribute(dst, `,"replayof":`, e.ReplayOf)
	dst = appendBody(dst, e.ContentType, e.Data)
	return append(dst, '}')
}

// appendAttribute appends a member whose name is already quoted, with its comma and colon.
func appendAttribute(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	return appendString(append(dst, name...), value)
}

func appendBody(dst []byte, contentType string, body []byte) []byte {
	if len(body) == 0 {
		return dst
	}
	// A JSON parser lets bytes that aren't UTF-8 pass inside strings; a stream of text must not.
	if utf8.Valid(body) {
		switch formOf(contentType) {
		case formJSON:
			if with, ok := appendJSON(append(dst, `,"data":`...), body); ok {
				return with
			}
		case formText:
			return appendString(append(dst, `,"data":`...), string(body))
		}
	}
	return appendBase64(append(dst, `,"data_base64":`...), body)
}

// AppendChange appends a row change as JSON, on one line: op is "upsert" or "delete", and partition, offset and index
// are the change's identity, the same on every node. A row that is not JSON is row_base64 instead of row.
func AppendChange(dst []byte, c *eventstore.Change) []byte {
	dst = appendRow(dst, c)
	dst = append(dst, `,"partition":`...)
	dst = strconv.AppendInt(dst, int64(c.Partition), 10)
	dst = append(dst, `,"offset":`...)
	dst = strconv.AppendInt(dst, c.Offset, 10)
	dst = append(dst, `,"index":`...)
	dst = strconv.AppendInt(dst, int64(c.Index), 10)
	return append(dst, '}')
}

// AppendRow appends a row as it is, in the form of a change that has no identity and says so.
func AppendRow(dst []byte, c *eventstore.Change) []byte {
	return append(appendRow(dst, c), `,"snapshot":true}`...)
}

func opOf(c *eventstore.Change) string {
	if c.Row == nil {
		return "delete"
	}
	return "upsert"
}

// appendRow appends an object without its end.
func appendRow(dst []byte, c *eventstore.Change) []byte {
	dst = append(append(append(dst, `{"op":"`...), opOf(c)...), `","key":`...)
	dst = appendString(dst, c.Key)
	if c.Row != nil {
		with, ok := dst, utf8.Valid(c.Row)
		if ok {
			with, ok = appendJSON(append(dst, `,"row":`...), c.Row)
		}
		if !ok {
			with = appendBase64(append(dst, `,"row_base64":`...), c.Row)
		}
		dst = with
	}
	return dst
}

// The forms in which a body can stand in JSON.
type form int

const (
	formBinary form = iota
	formJSON
	formText
)

// formOf goes by the media type alone, so that events of one kind don't change their form with their bytes.
func formOf(contentType string) form {
	media, _, _ := strings.Cut(contentType, ";")
	switch media = strings.ToLower(strings.TrimSpace(media)); {
	case media == "", media == "application/json", media == "text/json", strings.HasSuffix(media, "+json"):
		return formJSON
	case strings.HasPrefix(media, "text/"), media == "application/xml", strings.HasSuffix(media, "+xml"),
		media == "application/x-www-form-urlencoded":
		return formText
	}
	return formBinary
}

// appendJSON appends a JSON text without insignificant white space, so on one line; ok is false if it isn't one.
func appendJSON(dst, text []byte) (with []byte, ok bool) {
	b := bytes.NewBuffer(dst)
	err := json.Compact(b, text)
	return b.Bytes(), err == nil
}

func appendBase64(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

// appendString appends s as a JSON string (RFC 8259, section 7). Bytes that are not UTF-8 become U+FFFD. U+2028 and
// U+2029 are escaped because they end lines in older JavaScript.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	done := 0 // s[:done] is in dst
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			dst = append(dst, s[done:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			case '\t':
				dst = append(dst, '\\', 't')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			done = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(append(dst, s[done:i]...), `\ufffd`...)
			done = i + size
		case r == '\u2028' || r == '\u2029':
			dst = append(append(dst, s[done:i]...), `\u202`...)
			dst = append(dst, hex[r&15])
			done = i + size
		}
		i += size
	}
	dst = append(dst, s[done:]...)
	return append(dst, '"')
}
