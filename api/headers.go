package api

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// waitOf reads how long a client wants to wait (RFC 7240, Prefer: wait=‹seconds›), at most longest. A preference that
// can't be understood is ignored, as the RFC wants it.
func waitOf(prefer string, otherwise, longest time.Duration) time.Duration {
	for preference := range strings.SplitSeq(prefer, ",") {
		preference, _, _ = strings.Cut(preference, ";")
		name, value, _ := strings.Cut(preference, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") {
			continue
		}
		n, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 32)
		if err != nil {
			break
		}
		return min(time.Duration(n)*time.Second, longest)
	}
	return otherwise
}

// expectedVersion reads If-Match: nil without it, else the version in one strong tag. A list, "*" or a weak tag says
// nothing that a command could be checked against.
func expectedVersion(ifMatch string) (*uint64, error) {
	if ifMatch == "" {
		return nil, nil
	}
	tag, ok := strings.CutPrefix(ifMatch, `"`)
	if ok {
		tag, ok = strings.CutSuffix(tag, `"`)
	}
	n, err := strconv.ParseUint(tag, 10, 64)
	if !ok || err != nil || strconv.FormatUint(n, 10) != tag {
		return nil, domain.Invalidf("If-Match", `If-Match is one version in quotes, like "7"; "0" for a stream without events`)
	}
	return &n, nil
}

func versionTag(version uint64) string { return `"` + strconv.FormatUint(version, 10) + `"` }

// bodyTag is the ETag of a body. A scope keeps equal bodies of different generations apart.
func bodyTag(scope uint64, body []byte) string {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, scope))
	h.Write(body)
	return `"` + base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12]) + `"`
}

// matches compares an If-None-Match with a tag, weakly (RFC 9110, section 13.1.2). None of our tags has a comma.
func matches(ifNoneMatch, tag string) bool {
	for candidate := range strings.SplitSeq(ifNoneMatch, ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == tag {
			return true
		}
	}
	return false
}

var traceParentRule = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// traceParent drops what isn't one: a receiver of a broken header starts a trace of its own
// (https://www.w3.org/TR/trace-context/#traceparent-header).
func traceParent(s string) string {
	if !traceParentRule.MatchString(s) {
		return ""
	}
	return s
}
