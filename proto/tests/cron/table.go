// Writes table.csv: when github.com/robfig/cron v3, which Kubernetes asks, says that schedules are due, around clock changes
// and otherwise. The zones are those of Go, not those of skpr. Run by hand, in an empty directory:
//
//	cp .../proto/tests/cron/table.go . && go mod init table && go get github.com/robfig/cron/v3@v3.0.1
//	go run table.go > .../proto/tests/cron/table.csv
package main

import (
	"encoding/csv"
	"fmt"
	"os"
	"time"
	_ "time/tzdata"

	"github.com/robfig/cron/v3"
)

// What people write, and what is read in different ways elsewhere.
var everyday = []string{
	"* * * * *", "*/15 * * * *", "*/7 * * * *", "0 * * * *", "30 * * * *", "0,30 * * * *", "59 * * * *", "5-59/10 * * * *",
	"0 0 * * *", "30 0 * * *", "0 1 * * *", "30 1 * * *", "45 1 * * *", "0 2 * * *", "15 2 * * *", "30 2 * * *", "59 2 * * *",
	"0 3 * * *", "30 3 * * *", "0 23 * * *", "*/20 2 * * *", "* 2 * * *", "*/30 1-3 * * *", "0 */2 * * *", "0 */6 * * *",
	"15 1,2,3 * * *", "0 2 * * SUN", "30 1 * * sun", "@hourly", "@daily", "@midnight", "@weekly",
}

// Days, months and years.
var calendar = []string{
	"0 0 29 2 *", "30 12 29 FEB *", "0 0 31 * *", "0 12 30 * *", "0 0 31 1,3,5 *", "0 0 1 * *", "@monthly", "@yearly", "@annually",
	"0 0 13 * FRI", "0 0 1,15 * MON", "0 0 1-7 * 1", "0 12 1-7 * MON-WED", "0 0 30 2 MON", "0 0 29 2 MON", "0 0 */2 * *",
	"0 0 */10 * *", "0 0 * * */2", "0 0 1-31/2 * MON", "0 0 * * 1-5", "30 3 * * MON-FRI", "0 9 * * Mon,wed,FRI", "0 0 * JAN-MAR *",
	"0 0 1 */3 *", "0 0 1 jan,Jul *", "0 0 * 2-12/5 0", "0 22 * * 0,6", "0 0 1 1 0", "59 23 31 12 *", "0 0 * */4 SAT",
	"0,1,2,3 4 5 6 *", "10-20/5 0-23/8 * * *", "7 7 7 7 *", "*,5 0 * * *", "0 0 *,3 * MON", "0 0 */1 * MON", "0 0 1 * *,2",
	"0-59 0-23 1-31 1-12 0-6", "  5   4\t* *  * ", "05 04 08 09 *", "0 0 28-31 * *", "0 12 * * 0-6/3",
}

// A zone, and days of 2024 to 2026 on which its clock is changed.
var changes = []struct {
	zone string
	days []string
}{
	{"Australia/Sydney", []string{"2024-10-06", "2025-04-06", "2026-10-04"}},
	{"Europe/Berlin", []string{"2024-03-31", "2025-10-26", "2026-03-29"}},
	{"America/New_York", []string{"2024-11-03", "2025-03-09", "2026-11-01"}},
	{"Australia/Lord_Howe", []string{"2024-10-06", "2025-04-06"}},
	{"America/Asuncion", []string{"2024-03-24", "2024-10-06"}},
	{"Africa/Cairo", []string{"2024-04-26", "2025-10-31", "2026-04-24"}},
	{"America/Santiago", []string{"2024-04-07", "2024-09-08"}},
	{"Africa/Casablanca", []string{"2025-02-23", "2025-04-06"}},
	{"Atlantic/Azores", []string{"2025-03-30", "2025-10-26"}},
	{"Europe/London", []string{"2025-03-30", "2026-10-25"}},
}

// Hours and minutes from the beginning of such a day at which a search begins.
var starts = []time.Duration{-26 * time.Hour, -20 * time.Minute, 70 * time.Minute, 95*time.Minute + 30*time.Second, 3 * time.Hour}

func main() {
	out := csv.NewWriter(os.Stdout)
	rows := 0
	row := func(expression, zone string, start time.Time) {
		schedule, err := cron.ParseStandard(fmt.Sprintf("TZ=%s %s", zone, expression))
		if err != nil {
			panic(err)
		}
		line := []string{expression, zone, start.UTC().Format(time.RFC3339)}
		for at := start; len(line) < 8; {
			at = schedule.Next(at)
			if at.IsZero() {
				line = append(line, "")
				break
			}
			line = append(line, at.UTC().Format(time.RFC3339))
		}
		for len(line) < 8 {
			line = append(line, "")
		}
		if err := out.Write(line); err != nil {
			panic(err)
		}
		rows++
	}
	for _, change := range changes {
		zone, err := time.LoadLocation(change.zone)
		if err != nil {
			panic(err)
		}
		for number, day := range change.days {
			begin, err := time.ParseInLocation("2006-01-02", day, zone)
			if err != nil {
				panic(err)
			}
			for which, expression := range everyday {
				// Each expression on each day, from one start or another.
				row(expression, change.zone, begin.Add(starts[(which+number)%len(starts)]))
			}
		}
	}
	for which, expression := range calendar {
		for number, zone := range []string{"UTC", "Australia/Sydney", "America/New_York"} {
			start := time.Date(2024+(which+number)%2, time.Month(1+(5*which+7*number)%12), 1+(11*which)%28, 13*number%24, 17, number, 0, time.UTC)
			row(expression, zone, start)
		}
	}
	out.Flush()
	fmt.Fprintln(os.Stderr, rows, "rows")
}
