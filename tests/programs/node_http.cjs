// An HTTP server that echoes requests, and a client with a keep-alive agent.
//
// usage: node_http.cjs serve PORT
//        node_http.cjs ask PORT HOST
'use strict';
const crypto = require('crypto');
const http = require('http');

const [what, port, host] = process.argv.slice(2);
const REQUESTS = 4000;
const SIZES = [0, 1, 100, 1000, 10000, 65537];
const LARGE = 30 << 20;

function serve() {
    const server = http.createServer((request, response) => {
        response.writeHead(200, { 'content-type': 'application/octet-stream' });
        request.pipe(response);
    });
    server.keepAliveTimeout = 60000;
    server.listen(port, '::');
}

// Bytes that depend only on their number.
function noise(size, seed) {
    const key = crypto.createHash('md5').update(String(seed)).digest();
    return crypto.createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(size));
}

function ask(agent, body) {
    return new Promise((resolve, reject) => {
        const request = http.request({ host, port, agent, method: 'POST' }, (response) => {
            const parts = [];
            response.on('data', (part) => parts.push(part));
            response.on('error', reject);
            response.on('end', () => {
                const echoed = Buffer.concat(parts);
                if (response.statusCode !== 200 || !echoed.equals(body)) {
                    reject(new Error(`${response.statusCode}: ${echoed.length} of ${body.length} bytes, or others`));
                }
                resolve(echoed);
            });
        });
        request.on('error', reject);
        request.end(body);
    });
}

async function main() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 16 });
    const start = process.hrtime.bigint();
    const numbers = Array.from({ length: REQUESTS }, (_, number) => number);
    const answers = await Promise.all(numbers.map((number) => ask(agent, noise(SIZES[number % SIZES.length], number))));
    console.log('rate requests per second', REQUESTS / (Number(process.hrtime.bigint() - start) / 1e9));
    answers.push(await ask(agent, noise(LARGE, 'large')));
    const digest = crypto.createHash('sha256');
    answers.forEach((answer) => digest.update(answer));
    console.log(answers.length, digest.digest('hex'));
    agent.destroy();
}

if (what === 'serve') {
    serve();
} else {
    main().catch((error) => {
        console.error(error);
        process.exitCode = 1;
    });
}
