package ingress

import (
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/penstock-io/penstock/domain"
)

// maxKept bounds the recorded header names and values of one delivery, in bytes.
const maxKept = 16 << 10

// kept returns the headers that are recorded with a delivery: those its verification can be repeated with, and those
// that say what it is. Credentials are on no list. None of them may stand twice: proxies differ in which one they keep.
func kept(p Provider, header http.Header) (map[string]string, error) {
	m := map[string]string{}
	size := 0
	for name, values := range header {
		name, ok := keeps(p.Keep, name)
		if !ok {
			continue
		}
		if len(values) > 1 && name != "user-agent" {
			return nil, ambiguous(name)
		}
		value := strings.Join(values, ", ")
		m[name] = value
		if size += len(name) + len(value); size > maxKept {
			return nil, refuse(431, "headers-too-large", "The headers are too large", "at most %d bytes are recorded", maxKept)
		}
	}
	return m, nil
}

// keeps reports whether a header is on the list, or one of those that are kept of every delivery, and gives its name in
// lower case then.
func keeps(list []string, name string) (lower string, ok bool) {
	switch name { // as net/http has them
	case "Content-Type":
		return "content-type", true
	case "User-Agent":
		return "user-agent", true
	}
	for _, pattern := range list {
		head, _, _ := strings.Cut(pattern, "*") // most headers are not of the vendor's, and needn't be lower-cased to see that
		if len(name) < len(head) || !strings.EqualFold(name[:len(head)], head) {
			continue
		}
		if lower == "" {
			lower = strings.ToLower(name)
		}
		if domain.MatchType(pattern, lower) {
			return lower, true
		}
	}
	return "", false
}

// traceParent returns the traceparent header if it is a valid one of W3C Trace Context
// (https://www.w3.org/TR/trace-context/#traceparent-header), else "". Later versions may be longer.
func traceParent(header http.Header) string {
	values := header["Traceparent"]
	if len(values) != 1 || len(values[0]) < 55 || len(values[0]) > 128 {
		return ""
	}
	t := values[0]
	if t[2] != '-' || t[35] != '-' || t[52] != '-' || t[:2] == "ff" || (t[:2] == "00" && len(t) != 55) ||
		(len(t) > 55 && t[55] != '-') || strings.ToLower(t) != t ||
		strings.Trim(t[3:35], "0") == "" || strings.Trim(t[36:52], "0") == "" {
		return ""
	}
	if _, err := hex.DecodeString(t[:2] + t[3:35] + t[36:52] + t[53:55]); err != nil {
		return ""
	}
	for i := 55; i < len(t); i++ {
		if t[i] < '!' || t[i] > '~' {
			return ""
		}
	}
	return t
}
