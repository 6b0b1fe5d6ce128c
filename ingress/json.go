package ingress

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/bits"
	"strconv"
	"unicode/utf8"
)

// maxNesting is how many arrays and objects of a body may stand inside one another. It is encoding/json's own limit,
// so that what is let in here can be read by whoever uses that package further on.
const maxNesting = 10_000

var (
	errNotJSON = errors.New("the body is not JSON")
	errTooDeep = errors.New("the body nests deeper than " + strconv.Itoa(maxNesting) + " levels")
)

// scan is the state of find.
type scan struct {
	body    []byte
	tails   [][]byte
	at      *key                      // whose value comes next; nil if nobody wants it
	inside  *key                      // the innermost wanted object that is open; nil if there is none
	wanted  int                       // how many wanted objects are open: they are the outermost, each inside the other
	depth   int                       // how many arrays and objects are open
	objects [maxNesting/64 + 1]uint64 // which of them are objects, a bit for each
	twice   *key                      // the first wanted key that is there twice
}

// run goes from value to value. An index of -1 stands for text that is not JSON.
func (s *scan) run() error {
	b := s.body
	for i := 0; ; {
		i = space(b, i)
		if s.at != nil {
			s.tails[s.at.number] = b[i:]
		}
		switch c := byteAt(b, i); c {
		case '{', '[':
			if s.depth == maxNesting {
				return errTooDeep
			}
			s.open(c == '{')
			if i = space(b, i+1); byteAt(b, i) != c+2 { // '}' and ']' come two after '{' and '['
				if i = s.element(i); i < 0 {
					return errNotJSON
				}
				continue
			}
		case '"':
			i = stringEnd(b, i)
		case 't':
			i = wordEnd(b, i, "true")
		case 'f':
			i = wordEnd(b, i, "false")
		case 'n':
			i = wordEnd(b, i, "null")
		default:
			i = numberEnd(b, i)
		}
		if i < 0 {
			return errNotJSON
		}
		for i = space(b, i); s.depth > 0 && byteAt(b, i) == s.closer(); i = space(b, i+1) {
			s.close()
		}
		switch {
		case s.depth == 0 && i == len(b):
			return nil
		case s.depth == 0 || byteAt(b, i) != ',':
			return errNotJSON
		}
		if i = s.element(i + 1); i < 0 {
			return errNotJSON
		}
	}
}

// open enters an array or an object, the value of s.at.
func (s *scan) open(object bool) {
	word, bit := &s.objects[s.depth/64], uint64(1)<<(s.depth%64)
	*word &^= bit
	if object {
		*word |= bit
		if s.at != nil {
			s.inside = s.at
			s.wanted++
		}
	}
	s.depth++
}

// close leaves the innermost array or object.
func (s *scan) close() {
	if s.wanted == s.depth {
		s.inside = s.inside.above
		s.wanted--
	}
	s.depth--
}

func (s *scan) inObject() bool {
	return s.objects[(s.depth-1)/64]>>((s.depth-1)%64)&1 != 0
}

func (s *scan) closer() byte {
	if s.inObject() {
		return '}'
	}
	return ']'
}

// element goes up to the next value in an array or object: in an object past the key, which says who wants the value.
func (s *scan) element(i int) int {
	s.at = nil
	if !s.inObject() {
		return i
	}
	b := s.body
	i = space(b, i)
	if byteAt(b, i) != '"' {
		return -1
	}
	end := stringEnd(b, i)
	if end < 0 {
		return -1
	}
	if s.wanted == s.depth {
		s.at = s.inside.child(unquoted(b[i:end]))
		if s.at != nil && s.tails[s.at.number] != nil && s.twice == nil {
			s.twice = s.at
		}
	}
	if i = space(b, end); byteAt(b, i) != ':' {
		return -1
	}
	return i + 1
}

// byteAt returns b[i], or at the end 0, which stands nowhere in JSON.
func byteAt(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

func wordEnd(b []byte, i int, word string) int {
	if end := i + len(word); end <= len(b) && string(b[i:end]) == word {
		return end
	}
	return -1
}

// stringEnd returns the index after the string that begins at b[i], eight bytes at a time.
func stringEnd(b []byte, i int) int {
	for i++; ; {
		for len(b)-i >= 8 {
			found := ends(binary.LittleEndian.Uint64(b[i:]))
			i += bits.TrailingZeros64(found) / 8 // 8 if there are none
			if found != 0 {
				break
			}
		}
		switch c := byteAt(b, i); {
		case c == '"':
			return i + 1
		case c < ' ': // or the end of the body
			return -1
		case c != '\\':
			i++
		default:
			switch byteAt(b, i+1) {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				i += 2
			case 'u':
				for _, h := range [...]byte{byteAt(b, i+2), byteAt(b, i+3), byteAt(b, i+4), byteAt(b, i+5)} {
					if (h < '0' || h > '9') && (h|0x20 < 'a' || h|0x20 > 'f') {
						return -1
					}
				}
				i += 6
			default:
				return -1
			}
		}
	}
}

// ends sets the high bit of each byte of w that is a quote, a backslash or a control character. Bits above the lowest
// may be wrong, for a borrow goes upwards: https://graphics.stanford.edu/~seander/bithacks.html#HasLessInWord
func ends(w uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote, backslash := w^ones*'"', w^ones*'\\'
	return ((w-ones*' ')&^w | (quote-ones)&^quote | (backslash-ones)&^backslash) & highs
}

func numberEnd(b []byte, i int) int {
	if byteAt(b, i) == '-' {
		i++
	}
	if byteAt(b, i) == '0' {
		i++
	} else if i = digitsEnd(b, i); i < 0 {
		return -1
	}
	if byteAt(b, i) == '.' {
		if i = digitsEnd(b, i+1); i < 0 {
			return -1
		}
	}
	if byteAt(b, i)|0x20 == 'e' {
		if i++; byteAt(b, i) == '+' || byteAt(b, i) == '-' {
			i++
		}
		return digitsEnd(b, i)
	}
	return i
}

// digitsEnd returns the index after one digit or more.
func digitsEnd(b []byte, i int) int {
	begin := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i == begin {
		return -1
	}
	return i
}

// unquoted returns what a string says. Escapes and broken UTF-8 are rare, and encoding/json knows them best.
func unquoted(quoted []byte) []byte {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return inner
	}
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return nil // never: it was scanned
	}
	return []byte(s)
}
