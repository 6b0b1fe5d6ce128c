package ingress

import (
	"net/http"
	"net/netip"
	"strings"
)

// Proxies finds out from which address a request comes, behind proxies whose word is taken for it. Without Trusted it
// is the other end of the connection.
type Proxies struct {
	Trusted []netip.Prefix
	// Header is where they say who asked them: "X-Forwarded-For", the default, or "Forwarded" (RFC 7239). Only this one
	// is read: a proxy replaces or extends the one it knows, and passes on the other as a stranger wrote it.
	Header string
}

// ParseProxies reads a configuration: ranges of trusted addresses, and the name of the header.
func ParseProxies(trusted []string, header string) (Proxies, error) {
	list, err := parseRanges(trusted)
	if err != nil {
		return Proxies{}, err
	}
	return Proxies{list, http.CanonicalHeaderKey(header)}, nil
}

// Client is the address of whoever sent the request: the right-most one that isn't a trusted proxy's. What stands
// further left was written by that client, and is worth nothing. If every address is a proxy's, it is the left-most
// one. It is the zero Addr if a trusted proxy said something else than an address.
func (p Proxies) Client(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := ap.Addr().Unmap()
	if !p.trusts(at) {
		return at
	}
	name := p.Header
	if name == "" {
		name = "X-Forwarded-For"
	}
	lines := r.Header[name]
	for i := len(lines) - 1; i >= 0; i-- {
		for rest := lines[i]; ; {
			cut := strings.LastIndexByte(rest, ',')
			element := strings.TrimSpace(rest[cut+1:])
			if name == "Forwarded" {
				element = forwardedFor(element)
			}
			if at = addressIn(element); !p.trusts(at) {
				return at
			}
			if cut < 0 {
				break
			}
			rest = rest[:cut]
		}
	}
	return at
}

func (p Proxies) trusts(a netip.Addr) bool {
	for _, t := range p.Trusted {
		if t.Contains(a) {
			return true
		}
	}
	return false
}

// hint says why a request may seem to come from somewhere else than it does.
func (p Proxies) hint(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err == nil && !p.trusts(peer.Addr().Unmap()) && len(r.Header["X-Forwarded-For"])+len(r.Header["Forwarded"]) > 0 {
		return "a proxy may have passed it on, but the connection is from " + peer.Addr().Unmap().String() + ", which trusted_proxies doesn't name"
	}
	return ""
}

// forwardedFor is what "for" says in one element of a Forwarded header, without its quotes. No address has a comma,
// a semicolon or an escape in it, so what does isn't taken for one.
func forwardedFor(element string) (text string) {
	for pair := range strings.SplitSeq(element, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		if !strings.EqualFold(name, "for") {
			continue
		}
		if text != "" {
			return "" // twice
		}
		text = value
		if inner, ok := strings.CutPrefix(value, `"`); ok {
			if text, ok = strings.CutSuffix(inner, `"`); !ok {
				return ""
			}
		}
	}
	return text
}

// addressIn reads an address as proxies write it: with or without a port, IPv6 with or without brackets.
func addressIn(text string) netip.Addr {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	if inner, ok := strings.CutPrefix(text, "["); ok {
		text = strings.TrimSuffix(inner, "]")
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}
