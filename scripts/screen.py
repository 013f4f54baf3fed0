"""What a terminal makes of the output of a program, and a picture of that."""

import codecs
import html
import re

CELL_WIDTH, CELL_HEIGHT, FONT_SIZE, MARGIN = 8.4, 18, 14, 14
FOREGROUND, BACKGROUND = "#d5d9e0", "#16181d"
PALETTE = "#000000 #e06c75 #8cc265 #d5b06b #61afef #c678dd #56b6c2 #abb2bf".split()
PALETTE += "#6b7280 #ff7b86 #a5e075 #f0c674 #80c1ff #de8fff #6fd6e0 #ffffff".split()


class Style:
    """Colours are those of the palette by number, of 256, or as #rrggbb; None is the terminal's own."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.foreground = self.background = None
        self.flags = frozenset()

    def apply(self, parameters):
        numbers = iter([int(number or 0) for number in parameters.split(";")])
        for number in numbers:
            if number == 0:
                self.reset()
            elif number in (1, 2, 3, 4, 7):
                self.flags |= {number}
            elif number == 22:
                self.flags -= {1, 2}
            elif number in (23, 24, 27):
                self.flags -= {number - 20}
            elif number in (38, 48):
                kind = next(numbers)
                color = next(numbers) if kind == 5 else "#" + "".join(f"{next(numbers):02x}" for _ in range(3))
                self.set_color(number == 38, color)
            elif number in (39, 49):
                self.set_color(number == 39, None)
            elif number // 10 in (3, 4):
                self.set_color(number < 40, number % 10)
            elif number // 10 in (9, 10):
                self.set_color(number < 100, number % 10 + 8)

    def set_color(self, is_foreground, color):
        if is_foreground:
            self.foreground = color
        else:
            self.background = color

    def key(self):
        return self.foreground, self.background, self.flags


class Screen:
    """Cells of a character and the key of its style."""

    BLANK = " ", Style().key()
    SEQUENCE = re.compile(r"\x1b\[([?>=]?)([0-9;]*)([@-~])|\x1b[()][0-9A-B]|\x1b[=>78DEHM]|[\x00-\x1f]|[^\x00-\x1f]+")
    # The start of a sequence whose end has not been read yet.
    UNFINISHED = re.compile(r"\x1b(\[[?>=]?[0-9;]*|[()])?$")

    def __init__(self, columns, lines):
        self.columns, self.lines = columns, lines
        self.column = self.line = 0
        self.style = Style()
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.rest = ""
        self.cells = [self.BLANK] * (columns * lines)

    def erase(self, begin, end):
        self.cells[begin:end] = [self.BLANK] * (end - begin)

    def feed(self, output):
        text = self.rest + self.decoder.decode(output)
        unfinished = self.UNFINISHED.search(text)
        self.rest = unfinished.group() if unfinished else ""
        for match in self.SEQUENCE.finditer(text, 0, len(text) - len(self.rest)):
            token = match.group()
            if match.group(3):
                self.control(*match.groups())
            elif token == "\r":
                self.column = 0
            elif token == "\n":
                self.line = min(self.line + 1, self.lines - 1)
            elif token == "\b":
                self.column = max(self.column - 1, 0)
            elif token[0] >= " ":
                self.write(token)

    def write(self, text):
        for character in text:
            if self.column == self.columns:
                self.column, self.line = 0, min(self.line + 1, self.lines - 1)
            self.cells[self.line * self.columns + self.column] = character, self.style.key()
            self.column += 1

    def control(self, mark, parameters, final):
        if mark:
            return  # modes: those in use have no effect on what is visible
        if final == "m":
            return self.style.apply(parameters)
        numbers = [int(number or 0) for number in parameters.split(";")]
        steps = max(numbers[0], 1)
        here = self.line * self.columns + self.column
        line_begin, all_cells = self.line * self.columns, self.columns * self.lines
        if final in "Hf":
            line, column = (numbers + [1])[:2]
            self.move(max(line, 1) - 1, max(column, 1) - 1)
        elif final in "ABCD":
            line, column = {"A": (-1, 0), "B": (1, 0), "C": (0, 1), "D": (0, -1)}[final]
            self.move(self.line + line * steps, self.column + column * steps)
        elif final == "G":
            self.move(self.line, steps - 1)
        elif final == "d":
            self.move(steps - 1, self.column)
        elif final == "J":
            self.erase(*[(here, all_cells), (0, here + 1), (0, all_cells), (0, 0)][numbers[0]])
        elif final == "K":
            line_end = line_begin + self.columns
            self.erase(*[(here, line_end), (line_begin, here + 1), (line_begin, line_end)][numbers[0]])

    def move(self, line, column):
        self.line = min(max(line, 0), self.lines - 1)
        self.column = min(max(column, 0), self.columns - 1)

    def rows(self):
        """Of each line its runs of one style: the column, the text and the key of the style."""
        for line in range(self.lines):
            runs = []
            for column in range(self.columns):
                character, style = self.cells[line * self.columns + column]
                if runs and runs[-1][2] == style:
                    runs[-1][1] += character
                else:
                    runs.append([column, character, style])
            yield runs


def hexadecimal(color, default):
    if color is None:
        return default
    if isinstance(color, str):
        return color
    if color < 16:
        return PALETTE[color]
    if color >= 232:
        return "#" + f"{8 + (color - 232) * 10:02x}" * 3
    steps = [0, 95, 135, 175, 215, 255]
    cube = color - 16
    return "#" + "".join(f"{steps[cube // power % 6]:02x}" for power in (36, 6, 1))


def svg(screen, title):
    width = screen.columns * CELL_WIDTH + 2 * MARGIN
    height = screen.lines * CELL_HEIGHT + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" font-family="monospace" font-size="{FONT_SIZE}">',
        f"<title>{html.escape(title)}</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
    ]
    for line, runs in enumerate(screen.rows()):
        for column, text, style in runs:
            parts += svg_run(MARGIN + column * CELL_WIDTH, MARGIN + line * CELL_HEIGHT, text, *style)
    return "\n".join([*parts, "</svg>", ""])


def svg_run(left, top, text, foreground, background, flags):
    """A run's background, and its text without the blanks around it, stretched to the width of its cells."""
    ink, paper = hexadecimal(foreground, FOREGROUND), hexadecimal(background, BACKGROUND)
    if 7 in flags:
        ink, paper = paper, ink
    if paper != BACKGROUND:
        width = len(text) * CELL_WIDTH
        yield f'<rect x="{left:g}" y="{top}" width="{width:g}" height="{CELL_HEIGHT}" fill="{paper}"/>'
    left += (len(text) - len(text.lstrip())) * CELL_WIDTH
    text = text.strip()
    if not text:
        return
    looks = f'fill="{ink}"'
    for flag, look in ((1, 'font-weight="bold"'), (2, 'opacity="0.6"'), (3, 'font-style="italic"')):
        looks += f" {look}" if flag in flags else ""
    yield (
        f'<text x="{left:g}" y="{top + 13}" textLength="{len(text) * CELL_WIDTH:g}" lengthAdjust="spacingAndGlyphs" '
        f'{looks} xml:space="preserve">{html.escape(text, quote=False)}</text>'
    )
