package ingress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"

	"github.com/penstock-io/penstock/domain"
)

var (
	snsHost = regexp.MustCompile(`^sns\.([a-z]{2}(?:-[a-z]+)+-[0-9]+)\.amazonaws\.com(?:\.cn)?$`)
	snsARN  = regexp.MustCompile(`^arn:aws(?:-cn|-us-gov)?:sns:([a-z0-9-]+):[0-9]{12}:[A-Za-z0-9_.-]{1,256}$`)
)

// confirmSubscription confirms the subscription of a topic that the source takes. That the topic is one of the source's
// was checked with the signature, because whoever has an account there can have requests signed. It is confirmed at
// the host of its region and nowhere else.
func confirmSubscription(ctx context.Context, h *Handler, a asked) (reply, error) {
	if a.route.provider.Binding == Unverified { // nobody has looked whose topic it is
		return reply{}, notConfigured("secrets")
	}
	topic, _ := fieldOf(a.body, "TopicArn")
	link, _ := fieldOf(a.body, "SubscribeURL")
	u, err := confirmURL(link, topic, a.token)
	if err != nil {
		return reply{}, err
	}
	answer, err := h.shakes.client.get(context.WithoutCancel(ctx), u, nil)
	if err == nil && !bytes.Contains(answer, []byte("<SubscriptionArn>")) {
		err = errors.New("SNS answers something else than a confirmation")
	}
	if err != nil {
		return reply{}, &domain.Error{Class: domain.Unavailable, Message: "the subscription could not be confirmed", Err: err}
	}
	return reply{status: http.StatusOK}, nil
}

// confirmURL checks the URL that a confirmation asks for, and makes it anew of what was checked.
func confirmURL(link, topic, token string) (*url.URL, error) {
	bad := func(why string) (*url.URL, error) { return nil, domain.Invalidf("SubscribeURL", "%s", why) }
	u, err := url.Parse(link)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Opaque != "" || u.Path != "/" && u.Path != "" || u.Fragment != "" {
		return bad("it is not the URL of a confirmation")
	}
	host, arn := snsHost.FindStringSubmatch(u.Host), snsARN.FindStringSubmatch(topic)
	if host == nil || arn == nil || host[1] != arn[1] {
		return bad("its host is not that of SNS in the topic's region")
	}
	q := u.Query()
	if q.Get("Action") != "ConfirmSubscription" || q.Get("TopicArn") != topic || q.Get("Token") != token {
		return bad("it does something else than to confirm this topic with this token")
	}
	made := url.Values{"Action": {"ConfirmSubscription"}, "TopicArn": {topic}, "Token": {token}}
	return &url.URL{Scheme: "https", Host: u.Host, Path: "/", RawQuery: made.Encode()}, nil
}

// withoutURL takes the URL off an error of an HTTP client: it may hold a token.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// reserved are the networks that are not out there, beyond those that package netip knows
// (https://www.iana.org/assignments/iana-ipv4-special-registry, …/iana-ipv6-special-registry).
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"),
}

// publicOnly refuses the addresses of private and special networks.
func publicOnly(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := at.Addr().Unmap()
	if at.Port() != 443 || !ip.IsGlobalUnicast() || ip.IsPrivate() || slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return fmt.Errorf("%s is not a public address", address)
	}
	return nil
}
