package egress

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestPayloadLines(t *testing.T) {
	for _, payload := range []string{"", "a", "a\nb", "a\rb", "a\r\nb", "a\n\nb\r\rc\r\n\r\nd", "\n", "\r\n", "a\n\r", "\r", "id: 1\ndata: x", " a"} {
		c := client{t: t, r: bufio.NewReader(bytes.NewReader(appendBlock(nil, "7", "", []byte(payload))))}
		want := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(payload)
		if b, err := c.next(); err != nil || b != (block{"message", "7", want}) {
			t.Errorf("%q: %+v, %v", payload, b, err)
		}
		if b, err := c.next(); err != io.EOF {
			t.Errorf("%q has more: %+v, %v", payload, b, err)
		}
	}
}
