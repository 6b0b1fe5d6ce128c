package penstock_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
	"github.com/penstock-io/penstock/projections"
)

// TestBackupAndRestoreFromTheCommandLine has a second node start from the tables of the first, on the same Kafka.
func TestBackupAndRestoreFromTheCommandLine(t *testing.T) {
	cfg := nodeConfig(t)
	cfg.Kafka.Brokers = eventstoretest.Brokers(t)
	n := startNode(t, cfg)
	pay := func(i int) {
		t.Helper()
		f := ingress.Facts{ID: fmt.Sprint("evt_", i), Customer: "cus_1", Charge: fmt.Sprint("ch_", i), Amount: 100}
		if a := n.deliver(t, "stripe.charge.succeeded", f); a.status != 202 {
			t.Fatalf("a delivery: %s", a)
		}
	}
	for i := range 5 {
		pay(i)
	}
	n.wantBalance(t, "cus_1", "", 500)
	var list struct{ Items []projections.Status }
	n.get(t, "/v1/projections").into(t, &list)

	dir, single := filepath.Join(t.TempDir(), "all"), filepath.Join(t.TempDir(), "one.tar")
	s := command(t, "backup", "--url", n.URL(), "--to", dir)
	if s.code != 0 || strings.Count(s.stdout, "\n") != len(list.Items) || !strings.Contains(s.stdout, "balances: generation 1, 1 rows, ") {
		t.Fatalf("backup of all: %+v", s)
	}
	if s := command(t, "backup", "--url", n.URL(), "--projection", "balances", "--to", single); s.code != 0 {
		t.Fatalf("backup of one: %+v", s)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"backup", "--url", n.URL(), "--projection", "nothing", "--to", dir}, `nothing: no projection "nothing" (not-found)`},
		{[]string{"backup", "--url", n.URL()}, `"to" not set`},
		{[]string{"restore", single, "--data", cfg.Data}, "another process works in it"},
		{[]string{"restore", "--data", t.TempDir()}, "at least 1 arg"},
		{[]string{"restore", "nowhere.tar", "--data", t.TempDir()}, "nowhere.tar: no such file"},
	} {
		if s := command(t, c.args...); s.code != 1 || !strings.Contains(s.stderr, c.want) || s.stdout != "" {
			t.Errorf("%q: want %q in %+v", c.args, c.want, s)
		}
	}
	for i := range 3 {
		pay(10 + i)
	}
	n.wantBalance(t, "cus_1", "", 800)
	n.stop(t)

	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != len(list.Items) {
		t.Fatalf("%v, %v", files, err)
	}
	data := t.TempDir()
	restore := func(args ...string) said {
		t.Helper()
		var stdout, stderr bytes.Buffer
		code := penstock.Run(t.Context(), billingApp(), append([]string{"restore", "--data", data}, args...), &stdout, &stderr)
		return said{code, stdout.String(), stderr.String()}
	}
	raw, err := os.ReadFile(single)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	harmed := filepath.Join(t.TempDir(), "harmed.tar")
	if err := os.WriteFile(harmed, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if s := restore(harmed); s.code != 1 || !strings.Contains(s.stderr, "checksums are not those of its content") {
		t.Errorf("a damaged one: %+v", s)
	}
	if s := restore(files...); s.code != 0 || !strings.Contains(s.stdout, "balances: generation 1, 1 rows as of ") {
		t.Fatalf("restore: %+v", s)
	}
	if s := restore(single); s.code != 1 || !strings.Contains(s.stderr, "has a table already") {
		t.Errorf("over what is there: %+v", s)
	}

	second := cfg
	second.Data = data
	n = startNode(t, second)
	n.wantBalance(t, "cus_1", "", 800)
	pay(20)
	n.wantBalance(t, "cus_1", "", 900)
	if a := n.deliver(t, "stripe.charge.succeeded", ingress.Facts{ID: "evt_0", Customer: "cus_1", Charge: "ch_0", Amount: 100}); a.status != 202 {
		t.Fatalf("%s", a)
	}
	pay(21) // after the repeated one
	n.wantBalance(t, "cus_1", "", 1000)
	if s := command(t, "projections", "--url", n.URL()); !strings.Contains(s.stdout, "balances") {
		t.Errorf("%+v", s)
	}
}

// TestABackupThatBreaksOffLeavesNothing cuts the connection, as proxies and full disks do.
func TestABackupThatBreaksOffLeavesNothing(t *testing.T) {
	n := startNode(t, nodeConfig(t))
	a := n.get(t, "/v1/projections/streams/backup")
	if a.status != 200 || a.header.Get("Content-Type") != "application/x-tar" || a.header.Get("Content-Disposition") != `attachment; filename="streams-000001.tar"` {
		t.Fatalf("%d %v", a.status, a.header)
	}
	if m, err := projections.CheckBackup(bytes.NewReader(a.body)); err != nil || m.Name != "streams" {
		t.Fatalf("%+v, %v", m, err)
	}
	for _, size := range []int{0, 700, len(a.body) / 2, len(a.body) - 2000} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-tar")
			io.Copy(w, bytes.NewReader(a.body[:size]))
			if size%2 == 0 { // or else it ends as if it were whole
				panic(http.ErrAbortHandler)
			}
		}))
		dir := t.TempDir()
		if s := command(t, "backup", "--url", server.URL, "--projection", "streams", "--to", dir); s.code != 1 {
			t.Errorf("%d bytes: %+v", size, s)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%d bytes: left behind: %v", size, left)
		}
		server.Close()
	}
}
