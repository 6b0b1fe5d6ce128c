package eventstore

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// filled is an entry with something in every field, those included that are added later.
func filled(t *testing.T) Entry {
	t.Helper()
	e := Entry{Kind: KindDelivery, Stream: "github/octo/hello#1", Received: time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)}
	v := reflect.ValueOf(&e).Elem()
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		if !f.IsZero() || name == "Partition" || name == "Offset" || name == "Foreign" {
			continue
		}
		switch p := f.Addr().Interface().(type) {
		case *string:
			*p = "some " + name + " \x00\xff"
		case *[]byte:
			*p = []byte("{\"exact\": \"bytes\"}\n\x00\xff")
		case **uint64:
			n := uint64(7)
			*p = &n
		case *map[string]string:
			*p = map[string]string{"user-agent": "x", "empty": ""}
		default:
			if f.CanInt() {
				f.SetInt(7)
				continue
			}
			t.Fatalf("field %s is of a kind that this test doesn't know: say how to fill it", name)
		}
	}
	return e
}

// A field that is forgotten here would be lost for what waits outside the log.
func TestPortableKeepsEveryField(t *testing.T) {
	for name, e := range map[string]Entry{
		"full": filled(t),
		"bare": {Kind: KindCommand, ID: "1", Stream: "a/b", Received: time.Unix(0, 0).UTC(), Body: []byte{}},
	} {
		b, err := e.AppendBinary([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		var got Entry
		if err := got.UnmarshalBinary(b[len("before"):]); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(got, e) {
			t.Errorf("%s: got %+v\nwant %+v", name, got, e)
		}
	}
}

// A file that an older version wrote must be readable for ever.
func TestPortableFormatIsFrozen(t *testing.T) {
	expected := uint64(3)
	e := Entry{
		Kind: KindDelivery, ID: "evt_1", Source: "stripe", Type: "stripe.charge.succeeded", Stream: "stripe/cus_9",
		Received: time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC), ContentType: "application/json", Verification: "stripe; body",
		Expected: &expected, Correlation: "evt_1", Headers: map[string]string{"user-agent": "Stripe/1.0"}, Body: []byte(`{"id": "evt_1"}`),
	}
	path := filepath.Join("testdata", "portable-v1.hex")
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) && *update {
		b, _ := e.AppendBinary(nil)
		text = []byte(hex.EncodeToString(b) + "\n")
		err = os.WriteFile(path, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	var got Entry
	if err := got.UnmarshalBinary(b); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, e)
	}
}

func TestPortableRefusesAnythingElse(t *testing.T) {
	b, _ := filled(t).AppendBinary(nil)
	for n := range b {
		var e Entry
		if err := e.UnmarshalBinary(b[:n]); domain.ClassOf(err) != domain.Corrupt {
			t.Errorf("the first %d of %d bytes: %v", n, len(b), err)
		}
	}
	var e Entry
	if err := e.UnmarshalBinary(append(b, 0)); domain.ClassOf(err) != domain.Corrupt {
		t.Errorf("a byte too many: %v", err)
	}
}

func FuzzPortable(f *testing.F) {
	b, _ := Entry{Kind: KindCommand, ID: "1", Stream: "a/b", Received: time.Unix(0, 0).UTC(), Body: []byte("x")}.AppendBinary(nil)
	f.Add(b)
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Entry
		if e.UnmarshalBinary(b) != nil {
			return
		}
		again, _ := e.AppendBinary(nil)
		var same Entry
		if err := same.UnmarshalBinary(again); err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		if third, _ := same.AppendBinary(nil); !bytes.Equal(third, again) || !bytes.Equal(same.Body, e.Body) {
			t.Errorf("%+v becomes %+v", e, same)
		}
	})
}
