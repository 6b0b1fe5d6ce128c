package penstock

import (
	"context"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/penstock-io/penstock/api"
	"github.com/penstock-io/penstock/domain"
	"golang.org/x/sync/semaphore"
)

const (
	// answersBytes is what all large answers that are being sent may take together. A client that asks for pages and doesn't
	// read them had the node keep each for as long as it liked.
	answersBytes = 64 << 20
	// largeAnswer is from which size on an answer counts; smaller ones are within what a connection is taken to need.
	largeAnswer = 64 << 10
	// answerPatience is how long a client may take for a large answer, and one second more for each answerRate bytes.
	answerPatience = 30 * time.Second
	answerRate     = 64 << 10
)

// answers bounds the answers of next. A large one for which there is no room is 503; one of more than all of it goes alone.
func (n *Node) answers(next http.Handler) http.Handler {
	room := semaphore.NewWeighted(answersBytes)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/hooks/") { // small
			next.ServeHTTP(w, r)
			return
		}
		a := &sending{ResponseWriter: w, request: r, room: room}
		next.ServeHTTP(a, r)
		a.begin()
	})
}

// sending is an answer. Its status is held back until the size of what follows is known.
type sending struct {
	http.ResponseWriter
	request *http.Request
	room    *semaphore.Weighted
	status  int // to be written; 0 if none is, or it has been
	begun   bool
	refused bool // what the handler writes is thrown away
}

func (a *sending) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *sending) WriteHeader(status int) {
	switch {
	case a.begun || a.status != 0: // the server says that it is superfluous
	case status < 200: // comes before the answer
		a.ResponseWriter.WriteHeader(status)
	default:
		a.status = status
	}
}

func (a *sending) begin() {
	if a.begun = true; a.status != 0 {
		a.ResponseWriter.WriteHeader(a.status)
		a.status = 0
	}
}

func (a *sending) FlushError() error {
	a.begin()
	return http.NewResponseController(a.ResponseWriter).Flush()
}

func (a *sending) Write(b []byte) (int, error) {
	if a.refused {
		return len(b), nil
	}
	if len(b) < largeAnswer {
		a.begin()
		return a.ResponseWriter.Write(b)
	}
	size := min(int64(len(b)), answersBytes)
	if !a.room.TryAcquire(size) {
		if !a.begun {
			a.refuse()
			return len(b), nil
		}
		// In the middle of a stream, whose parts are few and stay the handler's while they wait.
		patience, cancel := context.WithTimeout(a.request.Context(), answerPatience)
		defer cancel()
		if err := a.room.Acquire(patience, size); err != nil {
			return 0, err
		}
	}
	defer a.room.Release(size)
	a.begin()
	control := http.NewResponseController(a.ResponseWriter)
	// What can't have a deadline is not a connection. It is cleared because the connection is used on.
	if control.SetWriteDeadline(time.Now().Add(answerPatience+time.Duration(len(b)/answerRate)*time.Second)) == nil {
		defer control.SetWriteDeadline(time.Time{})
	}
	return a.ResponseWriter.Write(b)
}

// refuse answers 503 in place of what was about to be.
func (a *sending) refuse() {
	a.refused, a.begun, a.status = true, true, 0
	// What comes from before the handler, says who may read the answer.
	maps.DeleteFunc(a.Header(), func(name string, _ []string) bool {
		return name != "Vary" && !strings.HasPrefix(name, "Access-Control-")
	})
	api.WriteProblem(a.ResponseWriter, a.request, &domain.Error{
		Class: domain.Unavailable, Message: "too many large answers are being sent: ask for less at once, or again later",
	})
}
