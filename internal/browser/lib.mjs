// What all tests use: the dashboard as a process, Chromium, people who are signed in, and
// ways to look for a secret.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { after } from 'node:test'
import { chromium } from 'playwright-core'

const program = process.env.DASHBOARD
assert.ok(program, 'DASHBOARD names the built examples/dashboard: start internal/browser/run')

export const password = 'correct horse', pin = '2580'
export const axeSource = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
export const pause = (ms) => new Promise((done) => setTimeout(done, ms))

// until asks again and again for something that is true.
export async function until(what, ask, ms = 10_000) {
	for (const ends = Date.now() + ms; ; await pause(50)) {
		const got = await ask()
		if (got) return got
		assert.ok(Date.now() < ends, `${what}: not within ${ms} ms`)
	}
}

// dashboard starts a dashboard, which the test ends.
export async function dashboard(t, page, ...flags) {
	const child = spawn(program, ['-listen', '127.0.0.1:0', '-page', page, ...flags], { stdio: ['ignore', 'pipe', 'pipe'] })
	const d = { page, out: '', err: '', pid: child.pid }
	child.stdout.on('data', (text) => { d.out += text })
	child.stderr.on('data', (text) => { d.err += text })
	t.after(async () => {
		if (child.exitCode !== null) return
		const ended = once(child, 'exit')
		child.kill('SIGKILL')
		await ended
	})
	d.url = await until('the dashboard prints its URL', () => {
		assert.equal(child.exitCode, null, d.err)
		return d.out.includes('\n') && d.out.split('\n')[0]
	}, 20_000)
	d.origin = new URL(d.url).origin

	// code is the newest code that was sent after a moment, which mark returns.
	d.mark = () => d.err.length
	d.code = (since) => until('a code', () => d.err.slice(since).match(/^code for \S+: (\d+)$/m)?.[1])
	d.codes = () => d.err.match(/^code for /gm)?.length ?? 0
	d.ping = async (token, mode = 'live') => (await fetch(`${d.origin}/${mode}/ping`, { headers: { Authorization: `Bearer ${token}` } })).status
	d.works = (token, mode) => until('the key works', async () => await d.ping(token, mode) === 200, 5000)
	d.refused = (token, mode) => until('the key is refused', async () => { const s = await d.ping(token, mode); return s === 401 || s === 403 }, 5000)
	return d
}

// mailbox is a mail server that keeps what it gets.
export async function mailbox(t) {
	const box = { mails: [] }
	const server = createServer((socket) => {
		let text = '', data = false
		socket.on('error', () => {})
		socket.write('220 mailbox\r\n')
		socket.on('data', (chunk) => {
			text += chunk
			for (;;) {
				const end = data ? '\r\n.\r\n' : '\r\n'
				const at = text.indexOf(end)
				if (at < 0) return
				const line = text.slice(0, at)
				text = text.slice(at + end.length)
				if (data) {
					box.mails.push(line.replace(/=\r\n/g, ''))
					data = false
				}
				data ||= /^DATA$/i.test(line)
				socket.write(data ? '354 go on\r\n' : /^QUIT$/i.test(line) ? '221 bye\r\n' : '250 yes\r\n')
			}
		})
	})
	server.listen(0, '127.0.0.1')
	await once(server, 'listening')
	t.after(() => server.close())
	box.address = `127.0.0.1:${server.address().port}`
	box.code = (since) => until('a mail with a code', () => box.mails.slice(since).join('\n').match(/Your code is (\d+)\./)?.[1])
	return box
}

// browser is Chromium, one for a file of tests. Each person has a profile of their own in it.
let started
export const browser = () => started ??= chromium.launch({
	executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
	args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
})
after(async () => (await started)?.close())

// person is somebody in a browser of their own, signed in, and on the list of keys. What
// goes wrong in their pages is collected, and fails the test at its end.
export async function person(t, b, d, user = 'admin', { embedded, ...options } = {}) {
	if (embedded) d.url = d.origin + '/app' // the page is an element of this one
	const context = await b.newContext({ locale: 'en-US', viewport: { width: 1280, height: 800 }, acceptDownloads: true, permissions: ['clipboard-read', 'clipboard-write'], ...options })
	const p = { context, d, embedded, scripts: options.javaScriptEnabled !== false, faults: [], urls: [] }
	await context.addInitScript(() => {
		document.addEventListener('securitypolicyviolation', (e) => console.error('CSP violation', e.violatedDirective, e.blockedURI))
	})
	context.on('console', (m) => {
		if (m.type() === 'error' && !/^Failed to load resource/.test(m.text())) p.faults.push(m.text())
	})
	context.on('weberror', (e) => p.faults.push(String(e.error().stack)))
	context.on('request', (r) => p.urls.push(r.url()))
	t.after(async () => {
		await context.close()
		assert.deepEqual(p.faults, [], 'errors of scripts and CSP violations')
	})
	context.setDefaultTimeout(10_000)
	p.page = await context.newPage()
	if (user) {
		await signIn(p.page, d, user)
		await p.page.goto(d.url)
	}
	return p
}

export async function signIn(page, d, user) {
	await page.goto(`${d.origin}/login`)
	await page.getByRole('textbox', { name: 'User' }).fill(user)
	await page.getByLabel('Password').fill(password)
	await page.getByRole('button', { name: 'Sign in' }).click()
	await page.waitForURL((u) => u.pathname !== '/login')
}

// on waits for a screen: a dialog of that name or, without scripts, a page with that heading.
export async function on(p, name) {
	if (p.scripts) {
		const dialog = p.page.getByRole('dialog', { name, exact: true })
		await dialog.waitFor()
		return dialog
	}
	await p.page.getByRole('heading', { level: 1, name, exact: true }).waitFor()
	return p.page.getByRole('main')
}

// arrived waits for the address of a screen, which in an element is not that of the page.
export async function arrived(p, wanted) {
	if (!p.embedded) return p.page.waitForURL(wanted)
	const is = typeof wanted === 'function' ? wanted : (u) => wanted.test(u)
	await until('the screen', async () => { const a = await p.page.evaluate(() => document.querySelector('apikey-page')?.address); return a && is(new URL(a)) })
}

// visit opens a screen by its address below that of the list.
export async function visit(p, rest) {
	await p.page.goto(p.embedded ? p.d.url : p.d.url + rest)
	if (p.embedded) await p.page.evaluate((rest) => document.querySelector('apikey-page').setAttribute('src', '/settings/keys' + rest), rest)
}

export const button = (where, name) => where.getByRole('button', { name, exact: true })
export const link = (where, name) => where.getByRole('link', { name, exact: true })
export const heading = async (p, name) => { await p.page.getByRole('heading', { level: 1, name, exact: true }).waitFor(); return p.page.getByRole('main') }
export const alert = async (where) => { const a = where.getByRole('alert').filter({ hasText: /\S/ }).first(); await a.waitFor(); return a.innerText() }

// secretIn reads the secret key of a dialog that shows one.
export async function secretIn(where) {
	const token = await where.getByRole('textbox', { name: 'Secret key' }).inputValue()
	assert.match(token, /^[a-z]+_sk_(live|test)_\w{20,}/)
	return token
}

// saved closes a dialog that shows a secret once.
export async function saved(p, where) {
	if (p.scripts) await where.getByRole('checkbox', { name: 'I have saved this key' }).check()
	await done(p, where)
}

export async function done(p, where) {
	await button(where, 'Done').click()
	await p.page.waitForLoadState()
	if (p.scripts) await where.waitFor({ state: 'detached' })
}

// hits counts where a secret is found: in the document, in a snapshot of the page, in the
// address and the history, in all storage, in the server's log and in the requests' URLs.
export async function hits(p, secret, page = p.page) {
	const found = {}
	const count = (where, text) => { const n = String(text).split(secret).length - 1; if (n) found[where] = n }
	count('document', await page.content())
	count('shown', await page.evaluate(() => {
		const within = (root) => [...root.querySelectorAll('*')].flatMap((e) => [e, ...(e.shadowRoot ? within(e.shadowRoot) : [])])
		const all = within(document).flatMap((e) => [e.value, e.defaultValue, e.placeholder, e.shadowRoot?.innerHTML, ...[...e.attributes].map((a) => a.value)])
		return [...all.filter((x) => typeof x === 'string'), document.title, document.body.innerText, location.href, JSON.stringify(history.state), String(getSelection())].join('\n')
	}))
	count('storage', await page.evaluate(async () => {
		const all = [JSON.stringify({ ...localStorage }), JSON.stringify({ ...sessionStorage }), document.cookie]
		for (const name of self.caches ? await caches.keys() : []) for (const r of await (await caches.open(name)).keys()) all.push(r.url, await (await (await caches.open(name)).match(r)).text())
		for (const { name, version } of await indexedDB.databases()) all.push(name + version)
		return all.join('\n')
	}))
	count('cookies and storage', JSON.stringify(await p.context.storageState({ indexedDB: true })) + JSON.stringify(await p.context.cookies()))
	const cdp = await p.context.newCDPSession(page)
	const { data } = await cdp.send('Page.captureSnapshot', { format: 'mhtml' })
	count('snapshot', data.replace(/=\r?\n/g, ''))
	const { entries } = await cdp.send('Page.getNavigationHistory')
	count('history', JSON.stringify(entries))
	await cdp.detach()
	count('urls', p.urls.join('\n'))
	count('server log', p.d.err + p.d.out)
	return found
}

// totp is the code that an authenticator app shows for a setup key.
export function totp(setup, now = Date.now()) {
	const bits = [...setup.replace(/[\s=]/g, '')].map((c) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(c.toUpperCase()).toString(2).padStart(5, '0')).join('')
	const key = Buffer.from(bits.match(/.{8}/g).map((b) => parseInt(b, 2)))
	const counter = Buffer.alloc(8)
	counter.writeBigUInt64BE(BigInt(Math.floor(now / 30_000)))
	const mac = createHmac('sha1', key).update(counter).digest()
	return String((mac.readUInt32BE(mac[19] & 15) & 0x7fffffff) % 1e6).padStart(6, '0')
}

// picture takes a picture for people, if a folder is named.
export async function picture(page, name) {
	if (!process.env.SCREENSHOTS) return
	mkdirSync(process.env.SCREENSHOTS, { recursive: true })
	await page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}.png`, fullPage: !(await page.locator('dialog[open]').count()) })
}
