package penstock_test

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// TestDurableStreams reads a stream as the protocol of that name says: in pieces, live, and again.
func TestDurableStreams(t *testing.T) {
	n := startNode(t, nodeConfig(t))
	grant := func(i int) {
		t.Helper()
		if a := n.command(t, "GrantCredit", fmt.Sprintf(`{"customer":"cus_1","amount":%d,"currency":"eur"}`, i+1)); a.status != 200 {
			t.Fatal(a)
		}
	}
	for i := range 5 {
		grant(i)
	}
	const path = "/v1/streams/billing/cus_1"
	ids := func(a answer) (versions []uint64) {
		var events []cloudEvent
		a.into(t, &events)
		for _, e := range events {
			versions = append(versions, e.StreamVersion)
		}
		return versions
	}
	eventstoretest.Until(t, "the stream is folded", func() bool { return len(ids(n.get(t, path+"?offset=-1"))) == 5 })
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodHead, n.URL()+path, nil)
	head := do(t, r)
	tail := head.header.Get("Stream-Next-Offset")
	if head.status != 200 || tail == "" || head.header.Get("Cache-Control") != "no-store" || len(head.body) > 0 {
		t.Errorf("HEAD: %v", head.header)
	}
	all := n.get(t, path+"?offset=-1")
	if got := fmt.Sprint(ids(all)); got != "[1 2 3 4 5]" || all.header.Get("Stream-Next-Offset") != tail || all.header.Get("Stream-Up-To-Date") != "true" {
		t.Errorf("%s: %v", got, all.header)
	}
	if again := n.get(t, path+"?offset=-1", "If-None-Match", all.header.Get("ETag")); again.status != 304 || len(again.body) > 0 {
		t.Errorf("again: %s", again)
	}
	if end := n.get(t, path+"?offset="+tail); string(end.body) != "[]" || end.header.Get("Stream-Next-Offset") != tail || end.header.Get("ETag") == all.header.Get("ETag") {
		t.Errorf("at the end: %s %v", end, end.header)
	}
	if now := n.get(t, path+"?offset=now"); string(now.body) != "[]" || now.header.Get("Stream-Next-Offset") != tail || now.header.Get("ETag") != "" || now.header.Get("Cache-Control") != "no-store" {
		t.Errorf("now: %s %v", now, now.header)
	}
	for query, status := range map[string]int{
		"offset=": 400, "offset=x": 400, "offset=5": 400, "offset=-2": 400, "offset=99999999999999999999": 400, "offset=-1&offset=now": 400,
		"live=long-poll": 400, "offset=-1&live=carrier-pigeon": 400, "offset=%2B0000000000000000001": 400,
	} {
		if a := n.get(t, path+"?"+query); a.status != status || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s", query, a)
		}
	}
	if a := n.get(t, "/v1/streams/billing/nobody?offset=-1"); a.status != 404 {
		t.Errorf("%s", a)
	}
	// Live: a poll that waits gets what comes, and another cursor each time.
	got := make(chan answer)
	go func() { got <- n.get(t, path+"?offset=now&live=long-poll") }()
	eventstoretest.Until(t, "the poll waits", func() bool {
		return strings.Contains(string(n.get(t, "/metrics").body), `feed_connections_active{transport="long-poll"} 1`)
	})
	grant(5)
	a := <-got
	if fmt.Sprint(ids(a)) != "[6]" || a.header.Get("Stream-Cursor") == "" {
		t.Errorf("%s %v", a, a.header)
	}
	next := n.get(t, path+"?offset="+tail+"&live=long-poll&cursor="+a.header.Get("Stream-Cursor"))
	if fmt.Sprint(ids(next)) != "[6]" || next.header.Get("Stream-Cursor") <= a.header.Get("Stream-Cursor") {
		t.Errorf("%s %v after %s", next, next.header, a.header.Get("Stream-Cursor"))
	}
	r, _ = http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL()+path+"?live=sse&offset="+tail, nil)
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	await := func(prefix, contains string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); lines.Scan() && time.Now().Before(deadline); {
			if strings.HasPrefix(lines.Text(), prefix) && strings.Contains(lines.Text(), contains) {
				return
			}
		}
		t.Fatalf("no line %s… with %s: %v", prefix, contains, lines.Err())
	}
	await("event: data", "")
	await("data:[{", `"streamversion":6`)
	await("event: control", "")
	await("data:{", `"upToDate":true`)
	grant(6)
	await("data:[{", `"streamversion":7`)
	await("data:{", `"streamNextOffset":"00000000000000000007"`)
	// What it was before: the stream's version and its pages.
	if a := n.get(t, path); a.header.Get("ETag") != `"7"` {
		t.Errorf("%s", a)
	}
}
