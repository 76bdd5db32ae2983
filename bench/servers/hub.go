// Go's net/http, with a channel for each watcher.
package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

var (
	lock     sync.RWMutex
	watchers = map[chan []byte]bool{}
	stored   [][]byte
)

// The clock the client reads: Go's own monotonic time counts from the start of the program.
func monotonic() int64 {
	var at syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&at)), 0)
	return at.Nano()
}

func frame(p, n, size int) []byte {
	head := fmt.Sprintf(`data: {"p":%d,"n":%d,"t":%d,"pad":"`, p, n, monotonic())
	if fill := size - 4 - len(head); fill > 0 {
		head += strings.Repeat("x", fill)
	}
	return []byte(head + "\"}\n\n")
}

func asked(r *http.Request, name string, otherwise int) int {
	if value, err := strconv.Atoi(r.URL.Query().Get(name)); err == nil {
		return value
	}
	return otherwise
}

func opened(w http.ResponseWriter) http.Flusher {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(200)
	flusher := w.(http.Flusher)
	flusher.Flush()
	return flusher
}

func watch(w http.ResponseWriter, r *http.Request, first []byte) {
	events := make(chan []byte, 64)
	lock.Lock()
	watchers[events] = true
	lock.Unlock()
	defer func() {
		lock.Lock()
		delete(watchers, events)
		lock.Unlock()
	}()
	flusher := opened(w)
	if first != nil {
		w.Write(first)
		flusher.Flush()
	}
	beat := time.NewTicker(5 * time.Second)
	defer beat.Stop()
	for {
		select {
		case event := <-events:
			w.Write(event)
		case <-beat.C:
			w.Write([]byte(": ping\n\n"))
		case <-r.Context().Done():
			return
		}
		flusher.Flush()
	}
}

func publisher(p, rate int, seconds float64, size int) int {
	began := time.Now()
	n := 0
	for {
		if rate > 0 {
			if float64(n) >= float64(rate)*seconds {
				return n
			}
			time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(rate))))
		} else if time.Since(began).Seconds() >= seconds {
			return n
		}
		n++
		event := frame(p, n, size)
		lock.RLock()
		for events := range watchers {
			events <- event
		}
		lock.RUnlock()
	}
}

func publish(w http.ResponseWriter, r *http.Request) {
	seconds, _ := strconv.ParseFloat(r.URL.Query().Get("seconds"), 64)
	var all sync.WaitGroup
	amounts := make([]int, asked(r, "publishers", 1))
	for p := range amounts {
		all.Add(1)
		go func(p int) {
			defer all.Done()
			amounts[p] = publisher(p, asked(r, "rate", 0), seconds, asked(r, "size", 206))
		}(p)
	}
	all.Wait()
	total := 0
	for _, amount := range amounts {
		total += amount
	}
	fmt.Fprintf(w, `{"published":%d}`, total)
}

func main() {
	http.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) { watch(w, r, nil) })
	http.HandleFunc("/one", func(w http.ResponseWriter, r *http.Request) {
		watch(w, r, frame(0, 1, asked(r, "size", 206)))
	})
	http.HandleFunc("/publish", publish)
	http.HandleFunc("/firehose", func(w http.ResponseWriter, r *http.Request) {
		flusher := opened(w)
		for n := 1; n <= asked(r, "count", 1); n++ {
			w.Write(frame(0, n, asked(r, "size", 206)))
			flusher.Flush()
		}
	})
	http.HandleFunc("/tokens", func(w http.ResponseWriter, r *http.Request) {
		flusher := opened(w)
		for n := 1; n <= asked(r, "count", 1); n++ {
			w.Write(frame(0, n, asked(r, "size", 206)))
			flusher.Flush()
			if n%10 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
	http.HandleFunc("/store", func(w http.ResponseWriter, r *http.Request) {
		stored = nil
		for n := 1; n <= asked(r, "count", 1); n++ {
			stored = append(stored, frame(0, n, asked(r, "size", 206)))
		}
		fmt.Fprint(w, "{}")
	})
	// A history is at hand, so it is written without a flush in between.
	http.HandleFunc("/replay", func(w http.ResponseWriter, r *http.Request) {
		opened(w)
		for _, event := range stored {
			w.Write(event)
		}
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
	os.Exit(1)
}
