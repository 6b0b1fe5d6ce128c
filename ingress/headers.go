package ingress

import (
	"encoding/hex"
	"errors"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/penstock-io/penstock/domain"
)

// maxKept bounds the recorded header names and values of one delivery, in bytes.
const maxKept = 16 << 10

// mediaType returns the media type of a request, which must be one that the provider sends.
func mediaType(p Provider, header http.Header) (string, error) {
	unsupported := refuse(415, "unsupported-media-type", "The content type is not one that this provider sends",
		"%s sends %s, uncompressed", p.Name, strings.Join(p.ContentTypes, " or "))
	media := header.Get("Content-Type")
	if media != jsonType {
		var err error
		// A broken parameter leaves the type readable, and no parameter matters here.
		if media, _, err = mime.ParseMediaType(media); err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
			return "", unsupported
		}
	}
	if e := header.Get("Content-Encoding"); !slices.Contains(p.ContentTypes, media) || e != "" && e != "identity" {
		return "", unsupported
	}
	return media, nil
}

// kept returns the headers that are recorded with a delivery: those its verification can be repeated with, and those
// that say what it is. Credentials are on no list.
func kept(p Provider, header http.Header) (map[string]string, error) {
	m := map[string]string{}
	size := 0
	for name, values := range header {
		name = strings.ToLower(name)
		if name != "content-type" && name != "user-agent" && !slices.ContainsFunc(p.Keep, func(pattern string) bool {
			return domain.MatchType(pattern, name)
		}) {
			continue
		}
		m[name] = strings.Join(values, ", ")
		if size += len(name) + len(m[name]); size > maxKept {
			return nil, refuse(431, "headers-too-large", "The headers are too large", "at most %d bytes are recorded", maxKept)
		}
	}
	return m, nil
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
