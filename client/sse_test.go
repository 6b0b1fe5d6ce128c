package client

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// blocksOf are the blocks that a text dispatches, as "id|event|data".
func blocksOf(text string) (blocks []string, err error) {
	err = readBlocks(strings.NewReader(text), 1<<20, func(b block) error {
		s := b.id + "|" + b.event + "|" + string(b.data)
		if b.retry > 0 {
			s += fmt.Sprintf("|%d", b.retry)
		}
		blocks = append(blocks, s)
		return nil
	})
	return blocks, err
}

// TestBlocks reads event streams as https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
// has it, but for the id, which is that of the block alone.
func TestBlocks(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                     nil,
		"data: 1\n":                            nil, // no empty line: not dispatched
		"data: 1\n\n":                          {"||1"},
		"data:1\n\ndata\n\ndata\ndata\n\n":     {"||1", "||", "||\n"},
		"data:  1\n\n":                         {"|| 1"},
		"id: 7\ndata: a\ndata: b\n\n":          {"7||a\nb"},
		"id: 7\r\nevent: x\r\ndata: a\r\n\r\n": {"7|x|a"},
		"\ufeffid: 7\n\n":                      {"7||"},
		"id: a\x00b\ndata: 1\n\n":              {"||1"},
		"id: 1\ndata: 1\n\ndata: 2\n\n":        {"1||1", "||2"},
		": comment\n\n:\n\n":                   nil,
		"event: x\n\ndata: 1\n\n":              {"|x|", "||1"},
		"retry: 1500\nid: 2\n\n":               {"2|||1500"},
		"retry: 1s\nid: 2\n\n":                 {"2||"},
		"nonsense: 1\ndata: 1\n\n":             {"||1"},
		"data: " + strings.Repeat("x", 200_000) + "\n\n": {"||" + strings.Repeat("x", 200_000)},
	} {
		got, err := blocksOf(text)
		if err == nil || !slices.Equal(got, want) {
			t.Errorf("%.80q: %.200q, %v, want %.200q", text, got, err, want)
		}
	}
	for name, text := range map[string]string{
		"a line":  "data: " + strings.Repeat("x", 1<<20) + "\n\n",
		"a block": strings.Repeat("data: "+strings.Repeat("x", 1<<14)+"\n", 70),
	} {
		if _, err := blocksOf(text); err == nil || !strings.Contains(err.Error(), "larger than") {
			t.Errorf("%s beyond all bounds: %v", name, err)
		}
	}
}

func FuzzBlocks(f *testing.F) {
	f.Add("id: 7\r\nevent: x\r\ndata: a\r\n\r\n")
	f.Add(": x\nretry: 1\n\ndata\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		blocks, err := blocksOf(text)
		if !errors.Is(err, errEnd) {
			t.Errorf("a stream that ends says %v", err)
		}
		if again, _ := blocksOf(text); !slices.Equal(again, blocks) {
			t.Error("another result for the same text")
		}
		if len(blocks) > strings.Count(text, "\n\n")+strings.Count(text, "\n\r\n")+1 {
			t.Errorf("%d blocks of %q", len(blocks), text)
		}
	})
}
